#!/usr/bin/env python3
"""Time cleanup as a whole process against onnxslim and onnxsim, by turns.

    pip install onnxslim==0.1.98 onnxsim==0.8.1 onnxruntime
    cargo build --release
    benches/peers.py MODEL.onnx [--runs N]

Prints for each program the median wall time and the largest peak memory, and against onnxshrink the median of the
paired ratios with its 95 % interval (of the sign test: no shape of the noise is assumed).
"""
import argparse, math, os, resource, shutil, statistics, subprocess, sys, tempfile, time


def interval(ratios):
    """The order statistics that enclose the median with 95 % confidence."""
    ratios, n = sorted(ratios), len(ratios)
    below = lambda k: sum(math.comb(n, i) for i in range(k)) / 2**n
    k = max((k for k in range(n // 2 + 1) if below(k) <= 0.025), default=0)
    return ratios[max(k - 1, 0)], ratios[min(n - k, n - 1)]


def run(command):
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} ended with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model"), parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--onnxshrink", default="target/release/onnxshrink")
    args = parser.parse_args()
    folder = tempfile.mkdtemp()
    out = lambda name: os.path.join(folder, name + ".onnx")
    scripts = os.path.dirname(sys.executable)
    find = lambda name: shutil.which(name, path=scripts) or shutil.which(name) or sys.exit(f"{name} is not installed")
    commands = {
        "onnxshrink": [args.onnxshrink, args.model, "-o", out("onnxshrink"), "--passes", "cleanup", "--no-check", "--quiet"],
        "onnxslim": [find("onnxslim"), args.model, out("onnxslim")],
        "onnxsim": [find("onnxsim"), args.model, out("onnxsim")],
    }
    times, peaks = {name: [] for name in commands}, dict.fromkeys(commands, 0)
    for turn in range(args.runs + 1):
        for name, command in commands.items():
            seconds, peak = run(command)
            if turn:  # the first turn only warms the page cache
                times[name].append(seconds)
            peaks[name] = max(peaks[name], peak)
    size = os.path.getsize(args.model)
    for name in commands:
        line = f"{name:10} {statistics.median(times[name]):7.3f} s, peak {peaks[name] / 1e6:6.1f} MB ({peaks[name] / size:.2f}x the file)"
        if name != "onnxshrink":
            ratios = [peer / own for peer, own in zip(times[name], times["onnxshrink"])]
            low, high = interval(ratios)
            line += f", {statistics.median(ratios):.1f}x our time ({low:.1f} to {high:.1f})"
        print(line)
    shutil.rmtree(folder)


main()
