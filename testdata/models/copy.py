#!/usr/bin/env python3
"""Makes this folder from a zoo of models and data: `copy.py ZOO`. Needs numpy."""
import pathlib
import shutil
import sys

import numpy

CASES = {
    "mnist_resdw": ("mnist_test", 64),
    "mnist_resdw_bn": (None, 0),
    "ppocr_cls": ("ocr_angle_test", 32),
    "spam_tf": ("spam_test", 64),
}

zoo, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
for model, (data, samples) in CASES.items():
    shutil.copyfile(zoo / "models" / f"{model}.onnx", here / f"{model}.onnx")
    if data:
        arrays = numpy.load(zoo / "data" / f"{data}.npz")
        numpy.savez_compressed(here / f"{model}.npz", **{name: arrays[name][:samples] for name in arrays})
