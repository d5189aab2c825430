#!/usr/bin/env python3
"""Compare every quantized value of a QDQ model in this runtime with the same in ONNX Runtime.

    pip install numpy onnx onnxruntime
    tools/compare_quantized.py ONNXSHRINK INT8.onnx DATA.npz [--samples N]

DATA.npz holds arrays named after the model's inputs, or `x`. ONNX Runtime optimizes the model first, and then runs what it
made of it without further optimizations, so that to ask for a value changes no kernel. Prints for each result of a
QuantizeLinear that is still there how many elements differ, and how many by more than a step.
"""
import argparse, pathlib, subprocess, tempfile

import numpy as np
import onnx
import onnxruntime as ort

TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
OF_8_BITS = {"tensor(uint8)": onnx.TensorProto.UINT8, "tensor(int8)": onnx.TensorProto.INT8}


def session(model, level, optimized=None):
    options = ort.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads, options.log_severity_level = level, 1, 3
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def with_outputs(model, values, kind):
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(kind(value) for value in values if value not in known)
    return model


def main():
    parser = argparse.ArgumentParser()
    for name in ("onnxshrink", "model", "data"):
        parser.add_argument(name)
    parser.add_argument("--samples", type=int, default=10)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        session(args.model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, folder / "optimized.onnx")
        optimized, model = onnx.load(folder / "optimized.onnx"), onnx.load(args.model)
        made = {value for node in optimized.graph.node for value in node.output}
        quantized = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.output[0] in made]
        there = session(
            with_outputs(optimized, quantized, onnx.helper.make_empty_tensor_value_info).SerializeToString(),
            ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        )
        types = {output.name: output.type for output in there.get_outputs()}
        quantized = [value for value in quantized if types[value] in OF_8_BITS]
        of_8_bits = lambda value: onnx.helper.make_tensor_value_info(value, OF_8_BITS[types[value]], None)
        onnx.save(with_outputs(model, quantized, of_8_bits), folder / "model.onnx")

        data = np.load(args.data)
        inputs = {i.name: data[i.name if i.name in data else "x"].astype(TYPES[i.type]) for i in there.get_inputs()}
        inputs = {name: samples[: args.samples] for name, samples in inputs.items()}
        np.savez(folder / "samples.npz", **inputs)
        command = [args.onnxshrink, "run", folder / "model.onnx", "--data", folder / "samples.npz", "-q"]
        subprocess.run([*command, "-o", folder / "outputs.npz"], check=True)
        here = np.load(folder / "outputs.npz")

        count = min(len(samples) for samples in inputs.values())
        elements, differ, beyond = ({value: 0 for value in quantized} for _ in range(3))
        for at in range(count):
            found = there.run(quantized, {name: samples[at : at + 1] for name, samples in inputs.items()})
            for value, theirs in zip(quantized, found):
                mine = here[value][at].reshape(theirs.shape)
                distance = np.abs(mine.astype(np.int16) - theirs.astype(np.int16))
                elements[value] += distance.size
                differ[value] += int((distance > 0).sum())
                beyond[value] += int((distance > 1).sum())
    for value in quantized:
        print(f"{value}: {differ[value]} of {elements[value]} differ, {beyond[value]} by more than a step")


main()
