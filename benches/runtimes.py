#!/usr/bin/env python3
"""Time an int8 model in this runtime and in ONNX Runtime, and its float original in this runtime, one thread, by turns.

    pip install numpy onnxruntime
    benches/runtimes.py ONNXSHRINK ORIGINAL.onnx INT8.onnx DATA.npz [--arithmetic saturating] [--rounds N] [--samples N]

Each round runs the same samples in all three, in an order that turns; a round's figure is the median over its samples.
Prints the median over the rounds and, for the two ratios, the 95 % interval (of the sign test).
"""
import argparse, json, pathlib, statistics, subprocess, tempfile, time

import numpy as np

from latency import TYPES, interval, session


def main():
    parser = argparse.ArgumentParser()
    for name in ("onnxshrink", "original", "int8", "data"):
        parser.add_argument(name)
    parser.add_argument("--arithmetic", default="exact")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--samples", type=int, default=20)
    args = parser.parse_args()

    int8 = session(args.int8)
    data = np.load(args.data)
    inputs = {i.name: data[i.name if i.name in data else "x"].astype(TYPES[i.type]) for i in int8.get_inputs()}
    count = min(args.samples, *(len(samples) for samples in inputs.values()))
    inputs = {name: samples[:count] for name, samples in inputs.items()}

    def onnxruntime():
        times = []
        for at in range(count):
            feed = {name: samples[at : at + 1] for name, samples in inputs.items()}
            start = time.perf_counter()
            int8.run(None, feed)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3

    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "samples.npz"
        np.savez(file, **inputs)

        def here(model):
            command = [args.onnxshrink, "run", model, "--data", str(file), "--threads", "1", "--json"]
            report = subprocess.run([*command, "--arithmetic", args.arithmetic], capture_output=True, check=True)
            return json.loads(report.stdout)["median_ms"]

        runs = {"int8 here": lambda: here(args.int8), "float here": lambda: here(args.original), "int8 onnxruntime": onnxruntime}
        times = {name: [] for name in runs}
        onnxruntime()
        for turn in range(args.rounds):
            names = list(runs)
            for name in names[turn % 3 :] + names[: turn % 3]:
                times[name].append(runs[name]())
    print(", ".join(f"{name} {statistics.median(all):.2f} ms" for name, all in times.items()))
    for other in ("float here", "int8 onnxruntime"):
        ratios = [mine / theirs for mine, theirs in zip(times["int8 here"], times[other])]
        low, high = interval(ratios)
        print(f"int8 here / {other}: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


main()
