"""Writes what ONNX Runtime computes for the first samples of each model of the zoo: `<model>.npz` beside this file.

    python testdata/expected/make.py ../shared/zoo

Each file holds the outputs by name, flattened; of an output with more than `LARGEST` elements, every `STRIDE`th. The
graphs run as they are, without ONNX Runtime's optimizations.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

MODELS = {
    "efficientnet_lite0": "imagenet_stamps",
    "minilm_spam": "minilm_spam_test",
    "mnist_resdw": "mnist_test",
    "mnist_resdw_bn": "mnist_test",
    "ppocr_cls": "ocr_angle_test",
    "ppocr_rec": "ocr_lines_test",
    "spam_tf": "spam_test",
}
SAMPLES = 2
LARGEST = 4096
STRIDE = 251  # a prime, so that it meets every axis at every place


def main(zoo):
    for model, data in MODELS.items():
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        path = zoo / "models" / f"{model}.onnx"
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        arrays = np.load(zoo / "data" / f"{data}.npz")
        inputs = session.get_inputs()
        of = {i.name: arrays[i.name if i.name in arrays else "x"] for i in inputs}
        outputs = {}
        for sample in range(SAMPLES):
            found = session.run(None, {name: array[sample : sample + 1] for name, array in of.items()})
            for output, array in zip(session.get_outputs(), found):
                flat = array.reshape(-1)
                outputs[f"{sample}:{output.name}"] = flat if flat.size <= LARGEST else flat[::STRIDE]
        np.savez(Path(__file__).parent / f"{model}.npz", **outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
