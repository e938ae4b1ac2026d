# SPDX-License-Identifier: Apache-2.0
"""The products of bench/matrix.cpp in PyTorch, for ratios taken in the same minute: python bench/matrix_torch.py [threads]

Prints the best of many runs, as wall-clock time: GB/s of weights and GFLOP/s. bf16 rows let PyTorch use its own bf16
arithmetic (AMX where there is one), which the library's fp32 arithmetic does not.
"""
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
torch.set_grad_enabled(False)
ROTATION = 512 << 20
SHAPES = [(768, 768), (2048, 768), (768, 2048), (50304, 768), (4096, 4096), (10944, 4096)]


def best(run, seconds=0.7):
    shortest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def report(name, rows, out, size_in, dtype, run):
    t = best(run)
    weights, flops = out * size_in * dtype.itemsize, 2 * rows * out * size_in
    print(f"{name}/{rows}x{out}x{size_in}/{dtype}: {weights / t * 1e-9:.1f} GB/s {flops / t * 1e-9:.1f} GFLOP/s", flush=True)


for out, size_in in SHAPES:
    for dtype in (torch.float32, torch.bfloat16):
        copies = max(1, ROTATION // (out * size_in * dtype.itemsize))
        weights = torch.full((copies, out, size_in), 0.01, dtype=dtype)
        for rows in (1, 8, 64, 512):
            x = torch.randn(rows, size_in).to(dtype)
            turn = iter(range(1 << 60))
            report("forward", rows, out, size_in, dtype, lambda: torch.nn.functional.linear(x, weights[next(turn) % copies]))
    x, dy, weight = torch.randn(512, size_in), torch.randn(512, out), torch.randn(out, size_in)
    dx, dw = torch.empty_like(x), torch.zeros_like(weight)
    report("backward_input", 512, out, size_in, torch.float32, lambda: torch.mm(dy, weight, out=dx))
    report("backward_weight", 512, out, size_in, torch.float32, lambda: dw.addmm_(dy.t(), x))
