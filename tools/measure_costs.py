#!/usr/bin/env python3
"""Measure what operators cost in ONNX Runtime, in float and in int8: the rows of passes/quantize/costs.csv.

    pip install numpy onnx onnxruntime
    measure_costs.py > costs.csv

Each row is one operator at one shape on one thread: `operator,macs,read,written,float_us,int8_us`, where read and written
count elements. A chain of several nodes is timed against a shorter one, so that the layout changes at its ends do not count.
Each figure is the least of many runs.
"""
import sys, time
import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto as T, helper as h, numpy_helper as nh

RUNS = 60
rng = np.random.default_rng(0)


class Chain:
    """A model of operators one after the other, in float or between Q/DQ pairs."""

    def __init__(self, shape, int8):
        self.int8, self.nodes, self.init, self.n = int8, [], [], 0
        self.start, self.value = shape, "x"
        if int8: self.value = self.pair("x")

    def name(self):
        self.n += 1
        return f"v{self.n}"

    def const(self, array):
        name = self.name()
        self.init.append(nh.from_array(array, name))
        return name

    def node(self, op, inputs, **attrs):
        out = self.name()
        self.nodes.append(h.make_node(op, inputs, [out], **attrs))
        return out

    def pair(self, x):
        s, z = self.const(np.float32(.05)), self.const(np.uint8(128))
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, s, z]), s, z])

    def weight(self, shape, axis, zero):
        if not self.int8: return self.const(rng.normal(size=shape).astype(np.float32) * .05)
        n = shape[axis]
        inputs = [self.const(rng.integers(-63, 63, shape).astype(np.int8)), self.const(np.full(n, .001, np.float32))]
        if zero: inputs.append(self.const(np.zeros(n, np.int8)))
        return self.node("DequantizeLinear", inputs, axis=axis)

    def then(self, op, inputs, **attrs):
        y = self.node(op, inputs, **attrs)
        self.value = self.pair(y) if self.int8 else y

    def conv(self, cin, cout, k, group=1, stride=1):
        w = self.weight((cout, cin // group, k, k), 0, False)
        self.then("Conv", [self.value, w, self.const(np.zeros(cout, np.float32))], kernel_shape=[k, k], pads=[k // 2] * 4, group=group, strides=[stride] * 2)

    def time(self):
        g = h.make_graph(self.nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, self.start)], [h.make_tensor_value_info(self.value, T.FLOAT, None)], self.init)
        m = h.make_model(g, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
        o = ort.SessionOptions()
        o.intra_op_num_threads, o.log_severity_level = 1, 3
        s = ort.InferenceSession(m.SerializeToString(), o, providers=["CPUExecutionProvider"])
        x = {"x": rng.normal(size=self.start).astype(np.float32)}
        best = np.inf
        for _ in range(RUNS):
            t = time.perf_counter()
            s.run(None, x)
            best = min(best, time.perf_counter() - t)
        return best * 1e6


def cost(shape, step, long=5, short=1):
    """What one `step` costs, in float and in int8."""
    out = []
    for int8 in (False, True):
        times = []
        for count in (short, long):
            chain = Chain(shape, int8)
            for _ in range(count): step(chain)
            times.append(chain.time())
        out.append((times[1] - times[0]) / (long - short))
    return out


def row(op, macs, read, written, f, q):
    print(f"{op},{int(macs)},{int(read)},{int(written)},{f:.1f},{q:.1f}", flush=True)


def convolutions():
    for a, b, size in [(16, 16, 56), (16, 96, 56), (24, 144, 28), (32, 192, 14), (40, 240, 14), (64, 64, 14), (112, 672, 7), (192, 1152, 7), (240, 240, 24),
                       (8, 16, 48), (8, 40, 24), (16, 64, 24), (48, 24, 12), (32, 120, 6), (200, 32, 6), (88, 32, 12)]:
        def step(c): c.conv(a, b, 1), c.conv(b, a, 1)
        f, q = cost([1, a, size, size], step, 3)
        row("Conv1x1", a * b * size**2, (a + b) / 2 * size**2, (a + b) / 2 * size**2, f / 2, q / 2)
    for a, k, size in [(8, 3, 28), (16, 3, 28), (32, 3, 28), (64, 3, 14), (64, 3, 28), (128, 3, 14)]:
        f, q = cost([1, a, size, size], lambda c: c.conv(a, a, k))
        row("Conv", a * a * k * k * size**2, a * size**2, a * size**2, f, q)
    for a, k, size in [(8, 3, 24), (16, 3, 28), (32, 3, 56), (96, 3, 28), (144, 5, 28), (240, 3, 14), (480, 5, 14), (672, 5, 7), (40, 5, 12), (64, 5, 6), (120, 5, 12)]:
        f, q = cost([1, a, size, size], lambda c: c.conv(a, a, k, a))
        row("DepthwiseConv", a * k * k * size**2, a * size**2, a * size**2, f, q)


def products():
    for m, k, n in [(1, 384, 384), (1, 1280, 1000), (16, 96, 96), (96, 96, 96), (96, 96, 384), (96, 384, 384), (96, 384, 1536), (128, 384, 384), (40, 120, 360), (40, 240, 120)]:
        def step(c):
            if c.int8: x = c.pair(c.value)
            else: x = c.value
            y = c.node("MatMul", [x, c.weight((k, n), 1, True)])
            x = c.pair(y) if c.int8 else y
            c.value = c.node("MatMul", [x, c.weight((n, k), 1, True)])
        chain = []
        for int8 in (False, True):
            times = []
            for count in (1, 3):
                c = Chain([m, k], False)
                c.int8 = int8
                for _ in range(count): step(c)
                times.append(c.time())
            chain.append((times[1] - times[0]) / 4)
        row("MatMul", m * k * n, m * (k + n) / 2, m * (k + n) / 2, *chain)


def elementwise():
    for a, size in [(16, 28), (32, 56), (96, 28), (240, 24), (40, 6), (24, 56)]:
        n = a * size**2

        def between(op):
            """The operator between convolutions, whose layouts it has to keep."""
            def with_op(c):
                c.conv(a, a, 1)
                op(c)
            f, q = cost([1, a, size, size], with_op)
            f0, q0 = cost([1, a, size, size], lambda c: c.conv(a, a, 1))
            return max(f - f0, 0.), max(q - q0, 0.)

        def both(op):
            def residual(c):
                x = c.value
                c.conv(a, a, 1)
                c.then(op, [x, c.value])
            f, q = cost([1, a, size, size], residual)
            f0, q0 = cost([1, a, size, size], lambda c: c.conv(a, a, 1))
            return max(f - f0, 0.), max(q - q0, 0.)
        row("Add", 0, 2 * n, n, *both("Add"))
        row("Mul", 0, 2 * n, n, *both("Mul"))

        def gate(c):
            x = c.value
            c.then("GlobalAveragePool", [x])
            c.conv(a, a, 1)
            c.then("Mul", [x, c.value])
            c.conv(a, a, 1)
        gates, convs = cost([1, a, size, size], gate, 3), cost([1, a, size, size], lambda c: c.conv(a, a, 1), 3)
        gates = [max(x - y, 0.) for x, y in zip(gates, convs)]
        for op in ("GlobalAveragePool", "Gate"): row(op, 0, n, n, *[x / 2 for x in gates])

        def swish(c):
            x = c.value
            if not c.int8: return c.then("HardSwish", [x])
            three = c.node("DequantizeLinear", [c.const(np.uint8(255)), c.const(np.float32(3 / 255)), c.const(np.uint8(0))])
            s, z = c.const(np.float32(6 / 255)), c.const(np.uint8(0))
            q = c.node("QuantizeLinear", [c.node("Add", [x, three]), s, z])
            c.then("Mul", [x, c.node("DequantizeLinear", [q, c.const(np.float32(1 / 255)), z])])
        row("HardSwish", 0, n, n, *between(swish))
        row("Sigmoid", 0, n, n, *between(lambda c: c.then("Sigmoid", [c.value])))
        row("MaxPool", 0, n, n, *between(lambda c: c.then("MaxPool", [c.value], kernel_shape=[3, 3], pads=[1] * 4)))
        row("AveragePool", 0, n, n, *between(lambda c: c.then("AveragePool", [c.value], kernel_shape=[3, 3], pads=[1] * 4)))

        def relu(pairs):
            def step(c):
                c.value = c.node("Relu", [c.value])
                if pairs: c.value = c.pair(c.value)
            chains = []
            for count in (1, 5):
                c = Chain([1, a, size, size], False)
                for _ in range(count): step(c)
                chains.append(c.time())
            return (chains[1] - chains[0]) / 4
        row("Border", 0, n, n, 0., max(relu(True) - relu(False), 0.) / 2)


if __name__ == "__main__":
    print("operator,macs,read,written,float_us,int8_us")
    which = sys.argv[1:] or ["convolutions", "products", "elementwise"]
    for name in which: globals()[name]()
