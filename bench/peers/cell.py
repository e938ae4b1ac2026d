#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The mLSTM cell in fp32, and in high precision, against mlstm_kernels' CPU kernels, on the same cores, in turns.

    python bench/peers/cell.py build/bench/mlstm_cell [--rounds 3] [--threads 2] [--json FILE]

Needs PyTorch and mlstm_kernels; without them ours runs alone. The tables have the smallest wall time and the smallest
processor time (of all threads) of each over the rounds, and ours as a fraction of the fastest other's. Where other
programs use the same cores, processor time is the fairer of the two.
"""
import os
import time

import contest

arguments = contest.arguments(__doc__, 3)
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
B, H, S, Q, V = 1, 8, 2048, 256, 512
result = contest.started(arguments, sizes=dict(B=B, H=H, S=S, Q=Q, V=V))


def ours(filter_):
    def run():
        [found] = contest.benchmarks(arguments.program, arguments.threads, filter_, "--benchmark_min_time=0.2").values()
        return {"wall": found["real_time"] * 1e-3, "processor": found["cpu_time"] * 1e-3}

    return run


def peers():
    """Work → name → a function that does it once."""
    import torch
    from mlstm_kernels.torch import get_mlstm_kernel, get_mlstm_step_kernel

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
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
        nonlocal state
        c, n, m = state
        with torch.no_grad():
            _, state = step_kernel(q=q[:, :, 0], k=k[:, :, 0], v=v[:, :, 0], i=i[:, :, :1], f=f[:, :, :1], c=c, n=n, m=m)

    step_kernel = get_mlstm_step_kernel("native")
    return {
        "forward": {
            "chunkwise--native_autograd 64": forward("chunkwise--native_autograd", chunk_size=64),
            "chunkwise--native_custbw 64": forward("chunkwise--native_custbw", chunk_size=64),
            "chunkwise--native_custbw 128": forward("chunkwise--native_custbw", chunk_size=128),
            "parallel--native_custbw": forward("parallel--native_custbw"),
            "parallel--native_stablef_custbw": forward("parallel--native_stablef_custbw"),
        },
        "forward and backward": {
            "chunkwise--native_custbw 64": training("chunkwise--native_custbw", chunk_size=64),
            "chunkwise--native_custbw 128": training("chunkwise--native_custbw", chunk_size=128),
        },
        "step": {"native": step},
    }


def timed(call, repeats):
    def run():
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            call()
        return {"wall": (time.perf_counter() - wall) / repeats, "processor": (time.process_time() - processor) / repeats}

    call()  # warms up
    return run


lacking = contest.missing("torch", "mlstm_kernels")
others = {}
if lacking:
    contest.leave_out(result, "mlstm_kernels", f"{', '.join(lacking)} not installed")
else:
    result["versions"] = contest.versions("torch", "mlstm_kernels")
    others = peers()

result["seconds"] = {}
HIGH = "cpu::HighPrecision"
for work, filters, repeats in (
        ("forward", {"ours": "^forward<Cell7B>/1/2048/0/", contest.HIGH: f"^forward<Cell7B, {HIGH}>/1/2048/0/"}, 2),
        ("forward and backward",
         {"ours": "^training<Cell7B>/1/2048/0/", contest.HIGH: f"^training<Cell7B, {HIGH}>/1/2048/0/"}, 1),
        ("step", {"ours": "^step<Cell7B>/1/"}, 50)):
    contestants = {name: ours(filter_) for name, filter_ in filters.items()}
    contestants.update({name: timed(call, repeats) for name, call in others.get(work, {}).items()})
    samples = contest.in_turns(arguments.rounds, contestants)
    result["seconds"][work] = {clock: {name: [run[clock] for run in runs] for name, runs in samples.items()}
                               for clock in ("wall", "processor")}
contest.save(arguments.json, result)

for work, clocks in result["seconds"].items():
    print(f"\n{work}   (B, H, S, Q, V) = ({B}, {H}, {1 if work == 'step' else S}, {Q}, {V}), {arguments.threads} threads")
    best = {clock: {name: min(times) for name, times in all_times.items()} for clock, all_times in clocks.items()}
    for name in best["wall"]:
        print(f"  {name:34} {best['wall'][name] * 1e3:9.2f} ms wall {best['processor'][name] * 1e3:9.2f} ms processor")
    for clock, times in best.items():
        fastest = min((time for name, time in times.items() if not contest.is_ours(name)), default=None)
        for name in filter(contest.is_ours, times if fastest else ()):
            print(f"  {name} / fastest other, {clock}: {times[name] / fastest:.3f}")
