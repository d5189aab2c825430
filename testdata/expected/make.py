"""Writes what ONNX Runtime computes for the first samples of each model of the zoo: `<model>.npz` beside this file.

    python testdata/expected/make.py ../shared/zoo

Each file holds the outputs by name, flattened; of an output with more than `LARGEST` elements, every `STRIDE`th. The
graphs run as they are, without ONNX Runtime's optimizations.

It also quantizes mnist_resdw with onnxruntime.quantization, once with weights of 8 bits (`int8_full`) and once of 7
(`int8_reduced`), and stores these models with what ONNX Runtime computes for some samples, in int8. The outputs of
`int8_full` depend on the CPU: they must come from one without VNNI, where products saturate.

`int8_transformer` is a block of a transformer with random weights. What it computes in floats between integers depends on
the CPU too, in its last bits: it must come from one with AVX-512 and VNNI.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
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


def transformer():
    """Lengths that no register divides: 19 tokens of 30 channels, in 3 heads."""
    tokens, channels, heads = 19, 30, 3
    random = np.random.default_rng(0)
    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def quantized(x, scale, zero_point):
        scale, zero_point = constant(f"{x}.scale", np.float32(scale)), constant(f"{x}.zero", np.uint8(zero_point))
        integers = node("QuantizeLinear", [x, scale, zero_point], f"{x}.int8")
        return node("DequantizeLinear", [integers, scale, zero_point], f"{x}.again")

    def dense(x, columns, output):
        depth = channels if columns != channels or output != "down" else 4 * channels
        weights = constant(f"{output}.weight", random.integers(-127, 128, (depth, columns)).astype(np.int8))
        scale = constant(f"{output}.weight.scale", random.uniform(1e-3, 3e-3, columns).astype(np.float32))
        zeros = constant(f"{output}.weight.zero", np.zeros(columns, np.int8))
        weights = node("DequantizeLinear", [weights, scale, zeros], f"{output}.weight.real", axis=1)
        product = node("MatMul", [x, weights], f"{output}.product")
        bias = constant(f"{output}.bias", random.normal(0, 0.3, columns).astype(np.float32))
        return node("Add", [product, bias], output)

    def normalized(x, output):
        scale = constant(f"{output}.gain", random.uniform(0.5, 1.5, channels).astype(np.float32))
        bias = constant(f"{output}.bias", random.normal(0, 0.2, channels).astype(np.float32))
        return node("LayerNormalization", [x, scale, bias], output, axis=-1, epsilon=1e-12)

    def head(x, perm):
        split = constant(f"{x}.shape", np.array([0, 0, heads, channels // heads]))
        return node("Transpose", [node("Reshape", [x, split], f"{x}.split")], f"{x}.heads", perm=perm)

    # What quantize(mode=static) writes for a block: scales of channels ahead, Sum for the Add before a LayerNormalization.
    first = normalized("x", "first")
    factors = constant("first.factors", random.uniform(0.5, 2, channels).astype(np.float32))
    inner = quantized(node("Mul", [first, factors], "first.scaled"), 0.03, 117)
    q, k, v = (dense(inner, channels, name) for name in "qkv")
    scores = node("MatMul", [head(q, [0, 2, 1, 3]), head(k, [0, 2, 3, 1])], "scores")
    scores = node("Mul", [scores, constant("third", np.float32(0.3))], "scores.scaled")
    mask = np.where(np.arange(tokens) < 15, 0, np.finfo(np.float32).min).astype(np.float32).reshape(1, 1, 1, tokens)
    chances = node("Softmax", [node("Add", [scores, constant("mask", mask)], "scores.masked")], "chances", axis=-1)
    mixed = node("MatMul", [chances, head(v, [0, 2, 1, 3])], "mixed")
    mixed = node("Transpose", [mixed], "mixed.last", perm=[0, 2, 1, 3])
    mixed = node("Reshape", [mixed, constant("mixed.shape", np.array([0, 0, channels]))], "mixed.joined")
    second = node("Sum", [dense(quantized(mixed, 0.02, 128), channels, "out"), first], "second")
    second = normalized(second, "second.normal")
    wide = dense(quantized(second, 0.03, 120), 4 * channels, "up")
    erf = node("Erf", [node("Div", [wide, constant("root", np.float32(np.sqrt(2)))], "up.scaled")], "erf")
    gate = node("Mul", [wide, node("Add", [erf, constant("one", np.float32(1))], "erf.more")], "gate")
    gelu = node("Mul", [gate, constant("half", np.float32(0.5))], "gelu")
    last = node("Sum", [dense(quantized(gelu, 0.01, 20), channels, "down"), second], "third.sum")
    normalized(last, "y")

    # Lengths that are known would let it merge MatMul and Add into a Gemm of floats.
    shape = ["N", "T", channels]
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    folder = Path(__file__).parent
    onnx.save(model, folder / "int8_transformer.onnx")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = random.normal(0, 2, (40, tokens, channels)).astype(np.float32)
    y = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in x])
    np.savez_compressed(folder / "int8_transformer.npz", x=x, y=y)


if __name__ == "__main__":
    if "--transformer-only" not in sys.argv:
        if "--quantized-only" not in sys.argv:
            main(Path(sys.argv[1]))
        quantized(Path(sys.argv[1]))
    transformer()
