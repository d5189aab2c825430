"""Makes the broken files of this folder. Needs the package onnx: python testdata/invalid/make.py"""

from pathlib import Path

import onnx
from onnx import AttributeProto, TensorProto, helper

FOLDER = Path(__file__).parent


def info(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def node(op="Relu", inputs=("x",), outputs=("y",), name="", **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def tensor(name="w", dims=(2,), data_type=TensorProto.FLOAT, raw_data=bytes(8), **fields):
    return TensorProto(name=name, dims=dims, data_type=data_type, raw_data=raw_data, **fields)


def external(location, **entries):
    made = tensor(data_location=TensorProto.EXTERNAL)
    made.ClearField("raw_data")
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=value)
    return made


def model(nodes=None, inputs=("x",), outputs=("y",), initializers=(), opset=17, functions=(), **graph):
    nodes = [node()] if nodes is None else nodes
    made = helper.make_graph(nodes, "g", [info(i) for i in inputs], [info(o) for o in outputs], list(initializers))
    for field, value in graph.items():
        getattr(made, field).extend(value)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10, functions=functions)


def add(initializer):
    """A model that adds `w`, which is not in order, to its input."""
    return model([node("Add", ["x", "w"], name="add")], initializers=[initializer])


def with_attribute(*attributes):
    broken = node("Clip", name="clip")
    broken.attribute.extend(attributes)
    return model([broken])


def call(name):
    return helper.make_node(name, ["a"], ["b"], domain="local")


def function(name, body):
    return helper.make_function("local", name, ["a"], ["b"], body, [helper.make_opsetid("local", 1)])


body = helper.make_graph([node("Relu", ["nowhere"], ["z"], name="inner")], "body", [], [info("z")])
condition = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
whole = add(tensor(dims=[64], raw_data=bytes(256))).SerializeToString()
sparse = onnx.SparseTensorProto(values=tensor(), dims=[2])
no_graph = model()
no_graph.ClearField("graph")
no_opset = model()
no_opset.ClearField("opset_import")
unnamed_op = node()
unnamed_op.ClearField("op_type")
typed = tensor(raw_data=None, int64_data=[1, 2])
odd_type = info("x")
odd_type.type.tensor_type.elem_type = 99
unknown_value_type = model()
unknown_value_type.graph.input[0].CopyFrom(odd_type)

CASES = {
    "empty": b"",
    "truncated": whole[:150],
    "random": bytes((i * i * 31 + i * 7 + 13) % 251 for i in range(400)),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "archive": b"PK\x03\x04" + bytes(40),
    "lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "no_graph": no_graph,
    "no_opset": no_opset,
    "opset_zero": model(opset=0),
    "opset_newer": model(opset=999),
    "no_operator": model([unnamed_op]),
    "cycle": model([node("Add", ["x", "b"], ["a"], "first"), node("Relu", ["a"], ["b"], "second"), node("Relu", ["a"])]),
    "cycle_through_body": model(
        [node("If", ["x"], ["y"], "branch", then_branch=helper.make_graph([], "t", [], [info("y")]), else_branch=body)]
    ),
    "defined_twice": model([node(name="one"), node(name="two")]),
    "input_twice": model(inputs=["x", "x"]),
    "initializer_twice": model([node("Add", ["x", "w"])], initializers=[tensor(), tensor()]),
    "node_defines_input": model([node("Relu", ["x"], ["x"], "again"), node()]),
    "undefined_value": model([node("Add", ["x", "nowhere"], name="add")]),
    "undefined_in_body": model([node("If", ["x"], ["y"], "branch", then_branch=body, else_branch=body)]),
    "undefined_output": model(outputs=["z"]),
    "unnamed_input": model(inputs=["x", ""]),
    "unnamed_output": model(outputs=["y", ""]),
    "unnamed_initializer": model(initializers=[tensor("")]),
    "tensor_length": add(tensor(raw_data=bytes(7))),
    "tensor_without_data": add(tensor(raw_data=None)),
    "tensor_type": add(tensor(data_type=99)),
    "tensor_wrong_field": add(typed),
    "tensor_segment": add(tensor(segment=TensorProto.Segment(begin=0, end=1))),
    "tensor_in_node": model([node("Constant", [], ["y"], "c", value=tensor(raw_data=bytes(3)))], inputs=[]),
    "dims_negative": add(tensor(dims=[-2])),
    "dims_overflow": add(tensor(dims=[1 << 40, 1 << 40])),
    "dims_overflow_bytes": add(tensor(dims=[1 << 62])),
    "strings_missing": add(tensor(data_type=TensorProto.STRING, raw_data=None, string_data=[b"one"])),
    "sparse_without_indices": model(sparse_initializer=[sparse]),
    "value_type": unknown_value_type,
    "external_missing": add(external("nowhere.bin")),
    "external_parent": add(external("../invalid/eight.bin")),
    "external_absolute": add(external("/etc/hostname")),
    "external_folder": add(external(".")),
    "external_range": add(external("eight.bin", offset="4", length="8")),
    "external_range_overflow": add(external("eight.bin", offset=str(2**64 - 1), length="8")),
    "external_short": add(external("eight.bin", length="4")),
    "external_offset": add(external("eight.bin", offset="-1")),
    "external_without_location": add(external("")),
    "attribute_empty": with_attribute(AttributeProto(name="min")),
    "attribute_type": with_attribute(AttributeProto(name="min", type=AttributeProto.GRAPH)),
    "attribute_twice": with_attribute(helper.make_attribute("min", 1.0), helper.make_attribute("min", 2.0)),
    "function_twice": model(functions=[function("f", [node("Relu", ["a"], ["b"])])] * 2),
    "function_undefined": model(functions=[function("f", [node("Relu", ["x"], ["b"], "inner")])]),
    "function_recursive": model(functions=[function("f", [call("g")]), function("g", [call("f")])]),
}

# A circle that closes through what a body captures.
CASES["cycle_through_body"].graph.node[0].attribute[0].g.CopyFrom(
    helper.make_graph([node("Relu", ["y"], ["t"], "inner")], "t", [], [info("t")])
)
CASES["cycle_through_body"].graph.node[0].attribute[1].g.CopyFrom(helper.make_graph([], "e", [], [info("x")]))
for boolean in ("undefined_in_body", "cycle_through_body"):
    CASES[boolean].graph.input[0].CopyFrom(condition)

for name, content in CASES.items():
    data = content if isinstance(content, bytes) else content.SerializeToString(deterministic=True)
    (FOLDER / f"{name}.onnx").write_bytes(data)
(FOLDER / "eight.bin").write_bytes(bytes(8))
