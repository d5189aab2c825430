#!/usr/bin/env python3
"""Time a training step by turns with PyTorch's on the same networks.

    pip install numpy torch
    cargo build --release --example train_step
    benches/train_step.py target/release/examples/train_step NETWORKS.py MODEL.onnx.. [--threads 1] [--tuned] [--runs N]

NETWORKS.py holds the networks as classes, called as the files but without underscores, with the shape of their input;
MODEL.x.npy is a batch. --tuned uses channels_last; set MALLOC_MMAP_THRESHOLD_=4294967296, MALLOC_TRIM_THRESHOLD_=8589934592
and MALLOC_TOP_PAD_=268435456 then, so that PyTorch keeps its memory. Prints the medians of CPU and wall time, the median of
the paired ratios ours / PyTorch with its 95 % interval (of the sign test), and the largest memory of both processes. Give
one model at a time where memory counts.
"""
import argparse, pathlib, resource, statistics, subprocess, time

import numpy as np
import torch

from latency import interval


def networks(path):
    """The classes of the file, without running what it does when it is called."""
    lines = pathlib.Path(path).read_text().splitlines()
    names = {"__name__": "networks"}
    exec(compile("\n".join(line for line in lines if line.strip() != "main()"), path, "exec"), names)
    return {name.lower(): value for name, value in names.items() if isinstance(value, type)}


def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def torch_step(network, file, tuned):
    torch.manual_seed(0)
    model, x = network(), torch.from_numpy(np.load(file.with_suffix(".x.npy")))
    if tuned and x.dim() == 4:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        used, start = cpu(), time.perf_counter()
        loss = model(x).square().mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        return 1e3 * (cpu() - used), 1e3 * (time.perf_counter() - start)

    return step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("example"), parser.add_argument("networks"), parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", type=int, default=1), parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--micro-batch", type=int), parser.add_argument("--tuned", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    known = networks(args.networks)
    for file in map(pathlib.Path, args.models):
        theirs = torch_step(known[file.stem.replace("_", "")], file, args.tuned)
        command = [args.example, str(file), "--by-turns", "--threads", str(args.threads)]
        if args.micro_batch:
            command += ["--micro-batch", str(args.micro_batch)]
        ours = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ours.stdout.readline()
        times = {"ours": [], "PyTorch": []}
        for turn in range(args.runs + 3):
            for which in sorted(times, reverse=turn % 2 == 1):
                if which == "ours":
                    ours.stdin.write("step\n"), ours.stdin.flush()
                    measured = tuple(map(float, ours.stdout.readline().split()))
                else:
                    measured = theirs()
                if turn >= 3:
                    times[which].append(measured)
        ours.stdin.close()
        memory = float(ours.stdout.readline()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for index, clock in enumerate(["cpu", "wall"]):
            ratios = [a[index] / b[index] for a, b in zip(times["ours"], times["PyTorch"])]
            low, high = interval(ratios)
            medians = ", ".join(f"{name} {statistics.median(t[index] for t in all):.1f} ms" for name, all in times.items())
            print(f"{file.stem} {clock}: {medians}, ratio {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")
        print(f"{file.stem} memory: ours {memory[0]:.0f} MiB, PyTorch {memory[1]:.0f} MiB", flush=True)


main()
