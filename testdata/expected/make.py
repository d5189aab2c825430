"""Writes what ONNX Runtime computes for the first samples of each model of the zoo: `<model>.npz` beside this file.

    python testdata/expected/make.py ../shared/zoo

Each file holds the outputs by name, flattened; of an output with more than `LARGEST` elements, every `STRIDE`th. The
graphs run as they are, without ONNX Runtime's optimizations.

It also quantizes mnist_resdw with onnxruntime.quantization, once with weights of 8 bits (`int8_full`) and once of 7
(`int8_reduced`), and stores these models with what ONNX Runtime computes for some samples, in int8. The outputs of
`int8_full` depend on the CPU: they must come from one without VNNI, where products saturate.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

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


class Samples(CalibrationDataReader):
    def __init__(self, x):
        self.rest = iter({"input": sample[None]} for sample in x)

    def get_next(self):
        return next(self.rest, None)


def quantized(zoo):
    folder = Path(__file__).parent
    x = np.load(zoo / "data" / "mnist_val.npz")["x"].astype(np.float32)
    for name, reduce_range in {"int8_full": False, "int8_reduced": True}.items():
        path = folder / f"{name}.onnx"
        quantize_static(
            zoo / "models" / "mnist_resdw.onnx",
            path,
            Samples(x[:64]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        samples = x[64:80]
        y = np.concatenate([session.run(None, {"input": sample[None]})[0] for sample in samples])
        np.savez_compressed(folder / f"{name}.npz", x=samples, y=y)


if __name__ == "__main__":
    if "--quantized-only" not in sys.argv:
        main(Path(sys.argv[1]))
    quantized(Path(sys.argv[1]))
