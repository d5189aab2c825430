#!/usr/bin/env python3
"""Writes recurrent.json: what ONNX Runtime gives for recurrent layers whose settings PyTorch does not have.

    python3 recurrent.py > recurrent.json        # with numpy, onnx and onnxruntime; made with onnxruntime 1.32 on a CPU

Every case is one node: its operands, which are trained where they are floats, its attributes, and all results.
"""
import json

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

random = np.random.default_rng(8)
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 2, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def case(op, bias=True, lengths=None, initial=True, peepholes=False, **attrs):
    directions = 2 if attrs.get("direction") == "bidirectional" else 1
    rows = GATES[op] * HIDDEN

    def smooth(*shape):
        return random.uniform(-1.2, 1.2, shape).astype(np.float32)

    state = (directions, BATCH, HIDDEN)
    operands = [
        smooth(STEPS, BATCH, INPUT),
        smooth(directions, rows, INPUT),
        smooth(directions, rows, HIDDEN),
        smooth(directions, 2 * rows) if bias else None,
        np.array(lengths, dtype=np.int32) if lengths else None,
        smooth(*state) if initial else None,
    ]
    if op == "LSTM":
        operands += [smooth(*state) if initial else None, smooth(directions, 3 * HIDDEN) if peepholes else None]
    attrs["hidden_size"] = HIDDEN
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(operands)]
    outputs = ["y", "y_h", "y_c"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, names, outputs, **attrs)
    types = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int32"): TensorProto.INT32}
    given = {name: x for name, x in zip(names, operands) if x is not None}
    inputs = [helper.make_tensor_value_info(name, types[x.dtype], x.shape) for name, x in given.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([node], "recurrent", inputs, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(outputs, given)

    def tensor(x):
        if x is None:
            return None
        kind = "floats" if x.dtype == np.float32 else "int32s"
        elements = [float(f"{v:.7g}") if kind == "floats" else v for v in x.reshape(-1).tolist()]
        return {"shape": list(x.shape), kind: elements, "trained": kind == "floats"}

    return {"op": op, "attrs": attrs, "operands": [tensor(x) for x in operands], "results": [tensor(x) for x in found]}


CASES = [
    case("LSTM", direction="reverse"),
    case("LSTM", direction="bidirectional", peepholes=True),
    case("LSTM", direction="bidirectional", lengths=[2, 4, 1]),
    case("LSTM", direction="reverse", lengths=[3, 1, 4], bias=False, initial=False, peepholes=True),
    case("LSTM", clip=0.6),
    case("LSTM", clip=0.4, peepholes=True, direction="reverse"),
    case("LSTM", input_forget=1),
    case("LSTM", activations=["HardSigmoid", "Softsign", "LeakyRelu"], activation_alpha=[0.3, 0.1], activation_beta=[0.4]),
    case("LSTM", direction="bidirectional", activations=["Sigmoid", "Elu", "Tanh", "HardSigmoid", "Relu", "Softplus"],
         activation_alpha=[0.7, 0.25]),
    case("GRU", direction="reverse"),
    case("GRU", direction="bidirectional", linear_before_reset=1),
    case("GRU", direction="bidirectional", lengths=[2, 4, 1]),
    case("GRU", direction="reverse", linear_before_reset=1, lengths=[4, 2, 3], initial=False),
    case("GRU", clip=0.5, bias=False),
    case("GRU", clip=0.5, linear_before_reset=1),
    case("GRU", activations=["HardSigmoid", "ThresholdedRelu"], activation_alpha=[0.3, 0.2], activation_beta=[0.4]),
    case("RNN", direction="reverse", activations=["Relu"]),
    case("RNN", direction="bidirectional", lengths=[1, 4, 3], activations=["Tanh", "Softsign"]),
    case("RNN", clip=0.5, bias=False),
]

if __name__ == "__main__":
    print("[")
    print(",\n".join(json.dumps(one, separators=(",", ":")) for one in CASES))
    print("]")
