#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The mLSTM cell against mlstm_kernels' CPU kernels, on the same cores, in turns.

    python bench/peers/cell.py build/bench/mlstm_cell [--rounds 5] [--threads 2]

Needs PyTorch and mlstm_kernels, and this repository's benchmark program. Each round times every contestant once; the
table has the smallest wall time and the smallest processor time (of all threads) of each over the rounds, and ours as
a fraction of the fastest other's. Where other programs use the same cores, processor time is the fairer of the two.
"""
import argparse
import json
import os
import subprocess
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("program", help="the built bench/mlstm_cell")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, default=2)
arguments = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import torch  # noqa: E402  (after the number of threads is set)
from mlstm_kernels.torch import get_mlstm_kernel, get_mlstm_step_kernel  # noqa: E402

torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
B, H, S, Q, V = 1, 8, 2048, 256, 512

q, k = torch.randn(B, H, S, Q), torch.randn(B, H, S, Q)
v = torch.randn(B, H, S, V)
i, f = torch.randn(B, H, S) - 1, torch.randn(B, H, S) + 4
dh = torch.randn(B, H, S, V)
state = (torch.zeros(B, H, Q, V), torch.zeros(B, H, Q), torch.zeros(B, H, 1))


def forward(name, **options):
    kernel = get_mlstm_kernel(name)

    def call():
        with torch.no_grad():
            kernel(q, k, v, i, f, **options)

    return call


def training(name, **options):
    kernel = get_mlstm_kernel(name)

    def call():
        inputs = [x.clone().requires_grad_() for x in (q, k, v, i, f)]
        kernel(*inputs, **options).backward(dh)

    return call


def step():
    kernel = get_mlstm_step_kernel("native")
    global state

    def call():
        global state
        c, n, m = state
        with torch.no_grad():
            _, state = kernel(q=q[:, :, 0], k=k[:, :, 0], v=v[:, :, 0], i=i[:, :, :1], f=f[:, :, :1], c=c, n=n, m=m)

    return call


def timed(call, repeats=1):
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - wall) / repeats, (time.process_time() - processor) / repeats


def ours(what, filter_):
    output = subprocess.run(
        [arguments.program, f"--threads={arguments.threads}", f"--benchmark_filter={filter_}",
         "--benchmark_format=json", "--benchmark_min_time=0.2"],
        check=True, capture_output=True, text=True).stdout
    runs = json.loads(output)["benchmarks"]
    return min(r["real_time"] for r in runs) * 1e-3, min(r["cpu_time"] for r in runs) * 1e-3


contests = {
    "forward": (lambda: ours("forward", "^forward<Cell7B>/1/2048/0/"), {
        "chunkwise--native_autograd 64": forward("chunkwise--native_autograd", chunk_size=64),
        "chunkwise--native_custbw 64": forward("chunkwise--native_custbw", chunk_size=64),
        "chunkwise--native_custbw 128": forward("chunkwise--native_custbw", chunk_size=128),
        "parallel--native_custbw": forward("parallel--native_custbw"),
        "parallel--native_stablef_custbw": forward("parallel--native_stablef_custbw"),
    }, 1),
    "forward and backward": (lambda: ours("training", "^training<Cell7B>/1/2048/0/"), {
        "chunkwise--native_custbw 64": training("chunkwise--native_custbw", chunk_size=64),
        "chunkwise--native_custbw 128": training("chunkwise--native_custbw", chunk_size=128),
    }, 1),
    "step": (lambda: ours("step", "^step<Cell7B>/1/"), {"native": step()}, 50),
}

for title, (mine, others, repeats) in contests.items():
    best = {}
    for _ in range(arguments.rounds):
        results = {"ours": mine()}
        for name, call in others.items():
            results[name] = timed(call, repeats)
        for name, (wall, processor) in results.items():
            old = best.get(name, (float("inf"), float("inf")))
            best[name] = (min(old[0], wall), min(old[1], processor))
    print(f"\n{title}   (B, H, S, Q, V) = ({B}, {H}, {1 if title == 'step' else S}, {Q}, {V}), {arguments.threads} threads")
    for name, (wall, processor) in best.items():
        print(f"  {name:34} {wall * 1e3:9.2f} ms wall {processor * 1e3:9.2f} ms processor")
    for index, what in enumerate(("wall", "processor")):
        fastest = min(times[index] for name, times in best.items() if name != "ours")
        print(f"  ours / fastest other, {what}: {best['ours'][index] / fastest:.3f}")
