#!/usr/bin/env python3
"""Writes cases.json: what PyTorch gives for operators of ONNX and for their gradients.

    python3 make.py > cases.json        # with PyTorch; cases.json was made with 2.15.0 on a CPU

Every case is one node (a QuantizeLinear has its DequantizeLinear behind it): its operands, which are trained where they are floats, its attributes, the first results, and the
gradients of the sum over all elements of the results, each times a factor that follows from its place (`factor`).
"""
import json
import math

import torch
import torch.nn.functional as F

torch.manual_seed(8)


def smooth(*shape):
    return (torch.rand(shape) * 2.4 - 1.2).requires_grad_()


def positive(*shape):
    return (torch.rand(shape) * 1.5 + 0.5).requires_grad_()


def apart(*shape, scale=1.0):
    """No two elements are alike, and none is near to a kink."""
    count = math.prod(shape)
    grid = (torch.randperm(200)[:count].float() - 99.5) * 0.025 * scale
    return grid.reshape(shape).requires_grad_()


def with_zeros(*shape):
    """Rows with no zero, one and two."""
    x = torch.rand(shape) * 2.4 - 1.2
    x[0, 1, 2] = x[1, 2, 0] = x[1, 2, 3] = 0
    return x.requires_grad_()


def ints(*of):
    return torch.tensor(of, dtype=torch.int64)


def fixed(x):
    return x.detach()


def fake_quantized(x, scale, zero_point):
    """QuantizeLinear and DequantizeLinear, with the gradients of learned step sizes."""
    zero_point = zero_point.float().reshape(1)
    return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, 0, 255, 1.0)


def rms(x, scale, epsilon):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * scale


def case(op, operands, run, **attrs):
    given = [x for x in operands if x is not None]
    results = run(*given)
    results = list(results) if isinstance(results, (list, tuple)) else [results]
    loss = 0
    for index, result in enumerate(results):
        factor = [((i * 7 + index * 3) % 11) / 5 - 0.9 for i in range(result.numel())]
        loss = loss + (result * torch.tensor(factor).reshape(result.shape)).sum()
    trained = [x for x in given if x.requires_grad]
    gradients = torch.autograd.grad(loss, trained)

    def tensor(x):
        if x is None:
            return None
        kind = {torch.float32: "floats", torch.float64: "doubles", torch.int64: "ints", torch.uint8: "bytes", torch.bool: "bools"}[x.dtype]
        elements = [float(f"{v:.7g}") if kind in ("floats", "doubles") else v for v in x.detach().reshape(-1).tolist()]
        return {"shape": list(x.shape), kind: elements, "trained": bool(x.requires_grad)}

    return {
        "op": op,
        "attrs": attrs,
        "operands": [tensor(x) for x in operands],
        "results": [tensor(x) for x in results],
        "gradients": [tensor(x) for x in gradients],
    }


def reduce(run, make=smooth):
    return [make(2, 3, 4), ints(0, -1)], lambda x, axes: run(x, tuple(axes.tolist()))


def recurrent(run, gates, order):
    """`run` of torch on the operands of ONNX, whose gates have this order there."""

    def of(x, w, r, b, *states):
        parameters = []
        for direction in range(w.shape[0]):
            rows = [torch.cat([m.chunk(gates)[gate] for gate in order]) for m in
                    (w[direction], r[direction], *b[direction].chunk(2))]
            parameters += rows
        directions = w.shape[0]
        y, *last = run(x, states if len(states) > 1 else states[0], parameters, True, 1, 0.0, False, directions == 2, False)
        steps, batch, _ = y.shape
        return [y.reshape(steps, batch, directions, -1).permute(0, 2, 1, 3), *last]

    return of


def recurrent_operands(gates, directions, states):
    (steps, batch, inputs, hidden), rows = (4, 2, 3, 2), gates * 2
    given = [smooth(steps, batch, inputs), smooth(directions, rows, inputs), smooth(directions, rows, hidden),
             smooth(directions, 2 * rows), None]
    return given + [smooth(directions, batch, hidden) for _ in range(states)]


CASES = [
    case("Abs", [apart(2, 3)], torch.abs),
    case("Add", [smooth(2, 3), smooth(3)], torch.add),
    case("AveragePool", [smooth(2, 2, 5, 6)], lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1)),
         kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", [smooth(2, 2, 5, 6)], lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1), count_include_pad=False),
         kernel_shape=[3, 2], strides=[2, 1], pads=[1, 1, 1, 1], count_include_pad=0),
    case("BatchNormalization", [smooth(2, 3, 4), smooth(3), smooth(3), fixed(smooth(3)), fixed(positive(3))],
         lambda x, s, b, m, v: F.batch_norm(x, m, v, s, b, False, 0.0, 1e-3), epsilon=1e-3),
    case("Celu", [apart(2, 3)], F.celu),
    case("Clip", [apart(3, 4), fixed(torch.tensor(-0.5)), fixed(torch.tensor(0.75))], lambda x, a, b: x.clamp(-0.5, 0.75)),
    case("Concat", [smooth(2, 3), smooth(2, 1)], lambda *xs: torch.cat(xs, 1), axis=1),
    case("Conv", [smooth(2, 4, 7), smooth(6, 2, 3), smooth(6)],
         lambda x, w, b: F.conv1d(x, w, b, 2, 1, 2, 2), strides=[2], pads=[1, 1], dilations=[2], group=2),
    case("Conv", [smooth(2, 3, 6, 5), smooth(4, 3, 3, 2), smooth(4)],
         lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 1, 0)), w, b, (2, 1)), strides=[2, 1], pads=[1, 0, 0, 1]),
    case("Conv", [smooth(1, 3, 5, 5), smooth(3, 1, 3, 3)], lambda x, w: F.conv2d(x, w, None, 1, 1, 1, 3),
         pads=[1, 1, 1, 1], group=3),
    case("Conv", [smooth(2, 16, 4, 4), smooth(16, 16, 3, 3), smooth(16)], lambda x, w, b: F.conv2d(x, w, b, 1, 1),
         pads=[1, 1, 1, 1]),
    case("ConvTranspose", [smooth(1, 4, 3, 3), smooth(4, 2, 3, 3), smooth(4)],
         lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2), strides=[2, 2], pads=[1, 1, 1, 1],
         output_padding=[1, 1], group=2),
    case("Cos", [smooth(2, 3)], torch.cos),
    case("Div", [smooth(2, 3), positive(2, 1)], torch.div),
    case("Einsum", [smooth(2, 3, 4), smooth(2, 4, 2)], lambda a, b: torch.einsum("bij,bjk->bik", a, b),
         equation="bij,bjk->bik"),
    case("Elu", [apart(2, 3)], lambda x: F.elu(x, 0.6), alpha=0.6),
    case("Erf", [smooth(2, 3)], torch.erf),
    case("Exp", [smooth(2, 3)], torch.exp),
    case("Expand", [smooth(2, 1, 3), ints(2, 4, 3)], lambda x, s: x.expand(2, 4, 3)),
    case("Flatten", [smooth(2, 3, 2)], lambda x: x.flatten(1), axis=1),
    case("Gather", [smooth(4, 3), ints(1, 1, 3)], lambda x, i: x[i], axis=0),
    case("GatherElements", [smooth(3, 4), ints(0, 2, 1, 1).reshape(1, 4)], lambda x, i: x.gather(0, i), axis=0),
    case("Gelu", [smooth(2, 3)], F.gelu),
    case("Gelu", [smooth(2, 3)], lambda x: F.gelu(x, approximate="tanh"), approximate="tanh"),
    case("Gemm", [smooth(3, 2), smooth(4, 3), smooth(4)], lambda a, b, c: 0.7 * a.T @ b.T + 1.4 * c,
         alpha=0.7, beta=1.4, transA=1, transB=1),
    case("GlobalAveragePool", [smooth(2, 3, 2, 4)], lambda x: x.mean((2, 3), keepdim=True)),
    case("GlobalMaxPool", [apart(2, 3, 2, 4)], lambda x: x.amax((2, 3), keepdim=True)),
    case("GroupNormalization", [smooth(2, 4, 3), smooth(4), smooth(4)], lambda x, s, b: F.group_norm(x, 2, s, b, 0.1),
         num_groups=2, epsilon=0.1),
    case("HardSigmoid", [apart(3, 4, scale=3.0)], F.hardsigmoid, alpha=1 / 6, beta=0.5),
    case("HardSwish", [apart(3, 4, scale=3.0)], F.hardswish),
    case("InstanceNormalization", [smooth(2, 3, 5), smooth(3), smooth(3)],
         lambda x, s, b: F.instance_norm(x, None, None, s, b, True, 0.1, 0.1), epsilon=0.1),
    case("LayerNormalization", [smooth(2, 3, 4), smooth(4), smooth(4)], lambda x, s, b: F.layer_norm(x, (4,), s, b, 0.1),
         axis=-1, epsilon=0.1),
    case("LeakyRelu", [apart(2, 3)], lambda x: F.leaky_relu(x, 0.1), alpha=0.1),
    case("Log", [positive(2, 3)], torch.log),
    case("LogSoftmax", [smooth(2, 3, 4)], lambda x: F.log_softmax(x, 1), axis=1),
    case("MatMul", [smooth(2, 1, 3, 4), smooth(3, 4, 2)], torch.matmul),
    case("Max", [apart(2, 3), fixed(torch.zeros(2, 3))], torch.maximum),
    case("MaxPool", [apart(1, 2, 6, 5)], lambda x: F.max_pool2d(x, (3, 2), (2, 1), (1, 0)),
         kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0]),
    case("Min", [apart(2, 3), fixed(torch.zeros(2, 3))], torch.minimum),
    case("Mish", [smooth(2, 3)], F.mish),
    case("Mul", [smooth(2, 3), smooth(2, 1)], torch.mul),
    case("Neg", [smooth(2, 3)], torch.neg),
    case("PRelu", [apart(2, 3, 2), smooth(3, 1)], lambda x, s: torch.where(x > 0, x, s * x)),
    case("Pad", [smooth(2, 3), ints(1, 0, 2, 1), fixed(torch.tensor(0.3))], lambda x, p, v: F.pad(x, (0, 1, 1, 2), value=0.3)),
    case("Pow", [positive(2, 3), smooth(3)], torch.pow),
    case("QuantizeLinear", [smooth(4, 5), torch.tensor([0.007]).requires_grad_(), torch.tensor([100], dtype=torch.uint8)],
         fake_quantized),
    case("RMSNormalization", [smooth(2, 3, 4), smooth(4)], lambda x, s: rms(x, s, 0.1), axis=-1, epsilon=0.1),
    case("Reciprocal", [positive(2, 3)], torch.reciprocal),
    case("ReduceL1", *reduce(lambda x, a: x.abs().sum(a, True), apart)),
    case("ReduceL2", *reduce(lambda x, a: x.square().sum(a, True).sqrt())),
    case("ReduceLogSum", *reduce(lambda x, a: x.sum(a, True).log(), positive)),
    case("ReduceLogSumExp", *reduce(lambda x, a: x.logsumexp(a, True))),
    case("ReduceMax", *reduce(lambda x, a: x.amax(a, True), apart)),
    case("ReduceMean", *reduce(lambda x, a: x.mean(a, True))),
    case("ReduceMin", *reduce(lambda x, a: x.amin(a, True), apart)),
    case("ReduceProd", *reduce(lambda x, a: x.prod(-1, True).prod(0, True))),
    case("ReduceProd", *reduce(lambda x, a: x.prod(-1, True).prod(0, True), with_zeros)),
    case("ReduceSum", *reduce(lambda x, a: x.sum(a, True))),
    case("ReduceSumSquare", *reduce(lambda x, a: x.square().sum(a, True))),
    case("Relu", [apart(2, 3)], F.relu),
    case("Reshape", [smooth(2, 3), ints(3, 2)], lambda x, s: x.reshape(3, 2)),
    case("Selu", [apart(2, 3)], F.selu),
    case("Sigmoid", [smooth(2, 3)], torch.sigmoid),
    case("Sin", [smooth(2, 3)], torch.sin),
    case("Slice", [smooth(5, 6), ints(1, 0), ints(5, 6), ints(0, 1), ints(2, 3)], lambda x, *of: x[1:5:2, 0:6:3]),
    case("Softmax", [smooth(2, 3, 4)], lambda x: F.softmax(x, -1), axis=-1),
    case("Softplus", [smooth(2, 3)], F.softplus),
    case("Softsign", [smooth(2, 3)], F.softsign),
    case("Split", [smooth(2, 5), ints(2, 3)], lambda x, s: x.split([2, 3], 1), axis=1),
    case("Sqrt", [positive(2, 3)], torch.sqrt),
    case("Squeeze", [smooth(2, 1, 3), ints(1)], lambda x, a: x.squeeze(1)),
    case("Sub", [smooth(2, 3), smooth(3)], torch.sub),
    case("Sum", [smooth(2, 3), smooth(3), smooth(2, 1)], lambda a, b, c: a + b + c),
    case("Swish", [smooth(2, 3)], F.silu),
    case("Tanh", [smooth(2, 3)], torch.tanh),
    case("ThresholdedRelu", [apart(2, 3)], lambda x: F.threshold(x, 0.3, 0.0), alpha=0.3),
    case("Tile", [smooth(2, 3), ints(2, 1)], lambda x, r: x.tile(2, 1)),
    case("Transpose", [smooth(2, 3, 4)], lambda x: x.permute(2, 0, 1), perm=[2, 0, 1]),
    case("Unsqueeze", [smooth(2, 3), ints(1)], lambda x, a: x.unsqueeze(1)),
    case("Where", [torch.tensor([[True, False, True], [False, False, True]]), smooth(2, 3), smooth(3)], torch.where),
    case("Cast", [smooth(2, 3)], lambda x: x.double(), to=11),
    case("CastLike", [smooth(2, 3), torch.tensor(0.0, dtype=torch.float64)], lambda x, like: x.to(like.dtype)),
    case("DepthToSpace", [smooth(1, 8, 2, 3)], lambda x: F.pixel_shuffle(x, 2), blocksize=2, mode="CRD"),
    case("DepthToSpace", [smooth(1, 8, 2, 3)],
         lambda x: x.reshape(1, 2, 2, 2, 2, 3).permute(0, 3, 4, 1, 5, 2).reshape(1, 2, 4, 6), blocksize=2, mode="DCR"),
    case("Dropout", [smooth(2, 3)], lambda x: F.dropout(x, 0.5, False)),
    case("GRU", recurrent_operands(3, 1, 1), recurrent(torch.gru, 3, (1, 0, 2)), hidden_size=2, linear_before_reset=1),
    case("GRU", recurrent_operands(3, 2, 1), recurrent(torch.gru, 3, (1, 0, 2)), hidden_size=2, linear_before_reset=1,
         direction="bidirectional"),
    case("Identity", [smooth(2, 3)], lambda x: x.clone()),
    case("LSTM", recurrent_operands(4, 1, 2), recurrent(torch.lstm, 4, (0, 2, 3, 1)), hidden_size=2),
    case("LSTM", recurrent_operands(4, 2, 2), recurrent(torch.lstm, 4, (0, 2, 3, 1)), hidden_size=2,
         direction="bidirectional"),
    case("Mean", [smooth(2, 3), smooth(1, 3), smooth(2, 1)], lambda a, b, c: (a + b + c) / 3),
    case("RNN", recurrent_operands(1, 2, 1), recurrent(torch.rnn_tanh, 1, (0,)), hidden_size=2, direction="bidirectional"),
    case("Resize", [smooth(1, 2, 3, 4), None, None, ints(1, 2, 6, 5)],
         lambda x, s: F.interpolate(x, (6, 5), mode="nearest"), mode="nearest",
         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    case("Resize", [smooth(1, 2, 3, 4), None, None, ints(1, 2, 6, 5)],
         lambda x, s: F.interpolate(x, (6, 5), mode="bilinear", align_corners=False), mode="linear"),
    case("Resize", [smooth(1, 2, 3, 4), None, None, ints(1, 2, 5, 3)],
         lambda x, s: F.interpolate(x, (5, 3), mode="bilinear", align_corners=True), mode="linear",
         coordinate_transformation_mode="align_corners"),
    case("SpaceToDepth", [smooth(1, 2, 4, 6)],
         lambda x: x.reshape(1, 2, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).reshape(1, 8, 2, 3), blocksize=2),
]

if __name__ == "__main__":
    print("[")
    print(",\n".join(json.dumps(one, separators=(",", ":")) for one in CASES))
    print("]")
