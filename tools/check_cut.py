#!/usr/bin/env python3
"""Check a cut model in ONNX Runtime: onnx.checker takes it, it runs at other sizes, and it gives what the masked model gives.

    pip install numpy onnx onnxruntime
    check_cut.py CUT.onnx MASKED.onnx "batch=1 seq=17" "x=3,3,48,192" ...

Each size names symbolic lengths, or whole shapes of inputs; lengths that it does not name are 2. The place of a size can be that
of a file of images, NAME.npz: the first of them, and then three together, of which the left half is taken. Outputs may be off
by 1e-4 of their range. Some networks are off by more for no other reason than that floats round: where they are, both models are
computed in doubles, by the reference of ONNX, and that decides. The tests of pruning call it where ONNXSHRINK_JUDGE holds it:

    ONNXSHRINK_JUDGE="python tools/check_cut.py" ONNXSHRINK_CUTS=20 cargo test --lib networks_of_the_zoo -- --nocapture
"""
import sys
import numpy as np, onnx, onnxruntime as ort
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

TOLERANCE = 1e-4
rng = np.random.default_rng(0)


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(inputs, size):
    if not size.endswith(".npz"):
        return [feed(inputs, size)]
    data = np.load(size)
    return [{of.name: data[of.name][:1] for of in inputs}, {of.name: np.split(data[of.name][:3], 2, -1)[0] for of in inputs}]


def feed(inputs, size):
    given = dict(part.split("=") for part in size.split())
    values = {}
    for of in inputs:
        if of.name in given: shape = [int(n) for n in given[of.name].split(",")]
        else: shape = [n if isinstance(n, int) and n > 0 else int(given.get(n, 2)) for n in of.shape]
        if "int" in of.type:
            ids = np.ones(shape) if "mask" in of.name else rng.integers(0, 16, shape)
            values[of.name] = ids.astype(np.int32 if "int32" in of.type else np.int64)
        else:
            values[of.name] = rng.standard_normal(shape).astype(np.float32)
    return values


def widened(path):
    """The model in doubles, for the reference."""
    model = onnx.load(path)
    # Functions say their types themselves.
    model = onnx.inliner.inline_local_functions(model)
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT: tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for of in [*model.graph.input, *model.graph.output]:
        if of.type.tensor_type.elem_type == TensorProto.FLOAT: of.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in model.graph.node:
        for at in node.attribute:
            if node.op_type == "Cast" and at.name == "to" and at.i == TensorProto.FLOAT: at.i = TensorProto.DOUBLE
            if at.type == onnx.AttributeProto.TENSOR and at.t.data_type == TensorProto.FLOAT:
                at.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(at.t).astype(np.float64)))
            if node.op_type == "Constant" and at.name in ("value_float", "value_floats"):
                value = np.array(at.f if at.name == "value_float" else at.floats, np.float64)
                at.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(value)))
    return ReferenceEvaluator(model)


def difference(found, wanted):
    """The greatest, as a share of the range of what is wanted."""
    low, high = min(wanted.min(), 0), max(wanted.max(), 0)
    return float(np.abs(found.astype(np.float64) - wanted).max()) / max(float(high - low), 1e-300)


def in_doubles(values):
    wide = {name: value.astype(np.float64) if value.dtype == np.float32 else value for name, value in values.items()}
    outputs = zip(*(widened(path).run(None, wide) for path in (cut, masked)))
    return float(np.max([difference(found, wanted) for found, wanted in outputs]))


cut, masked, sizes = sys.argv[1], sys.argv[2], sys.argv[3:]
onnx.checker.check_model(cut, full_check=True)
sessions = [session(path) for path in (cut, masked)]
most, wrong = 0.0, []
for size in sizes:
    for values in feeds(sessions[0].get_inputs(), size):
        for found, wanted in zip(*(s.run(None, values) for s in sessions)):
            if found.shape != wanted.shape or not np.isfinite(found).all():
                wrong.append(f"{size}: shape {found.shape} for {wanted.shape}, or no number")
                continue
            off = difference(found, wanted)
            most = max(most, off)
            if off <= TOLERANCE: continue
            doubles = in_doubles(values)
            print(f"        {size}: off by {off:.1e} of the range in floats, {doubles:.1e} in doubles")
            # What is no number is not within it either.
            if not doubles <= TOLERANCE: wrong.append(f"{size}: off by {doubles:.1e} of the range")
print(f"        ONNX Runtime {ort.__version__}: off by {most:.1e} of the range at the most, {len(sizes)} sizes")
sys.exit("\n".join(wrong) or 0)
