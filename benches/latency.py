#!/usr/bin/env python3
"""Time two models in ONNX Runtime, one thread, by turns.

    pip install numpy onnxruntime
    benches/latency.py ORIGINAL.onnx SMALL.onnx DATA.npz [--runs N]

DATA.npz holds arrays named after the model's inputs, or `x`. Prints both medians, and the median of the paired ratios
small / original with its 95 % interval (of the sign test) and its quartiles.
"""
import argparse, math, statistics, time

import numpy as np

TYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(float16)": np.float16}


def session(path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def interval(ratios):
    ratios, n = sorted(ratios), len(ratios)
    below = lambda k: sum(math.comb(n, i) for i in range(k)) / 2**n
    k = max((k for k in range(n // 2 + 1) if below(k) <= 0.025), default=0)
    return ratios[max(k - 1, 0)], ratios[min(n - k, n - 1)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("original"), parser.add_argument("small"), parser.add_argument("data")
    parser.add_argument("--runs", type=int, default=100)
    args = parser.parse_args()
    data = np.load(args.data)
    sessions = {"original": session(args.original), "small": session(args.small)}
    feeds = {
        which: {i.name: data[i.name if i.name in data else "x"][:1].astype(TYPES[i.type]) for i in model.get_inputs()}
        for which, model in sessions.items()
    }
    times = {which: [] for which in sessions}
    for turn in range(args.runs + 5):
        for which in sorted(sessions, reverse=turn % 2 == 1):
            start = time.perf_counter()
            sessions[which].run(None, feeds[which])
            if turn >= 5:
                times[which].append(time.perf_counter() - start)
    ratios = [small / original for small, original in zip(times["small"], times["original"])]
    low, high = interval(ratios)
    first, _, third = statistics.quantiles(ratios, n=4)
    medians = ", ".join(f"{which} {statistics.median(all) * 1e3:.2f} ms" for which, all in times.items())
    print(f"{medians}, ratio {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}; quartiles {first:.3f} {third:.3f})")


if __name__ == "__main__":
    main()
