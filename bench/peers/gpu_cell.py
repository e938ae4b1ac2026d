#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The mLSTM cell of mlstm_kernels on a GPU: its Triton kernels in bf16, forward, forward and backward, and the step.

    python bench/peers/gpu_cell.py --json FILE [--sequences 8] [--length 8192] [--seconds 120] [--device cpu]

Times are medians of triton.testing.do_bench. A kernel that fails is left out with what it said, as are those for which
there was no time. --device cpu: the kernels in plain PyTorch on shapes that are tiny, to try the script.
"""
import argparse
import pathlib
import time

import contest

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--json", type=pathlib.Path, required=True)
parser.add_argument("--sequences", type=int, default=8)
parser.add_argument("--length", type=int, default=8192)
parser.add_argument("--seconds", type=float, default=120, help="no kernel is begun later than this")
parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
arguments = parser.parse_args()
begin = time.monotonic()
on_gpu = arguments.device == "cuda"
B, H, S, Q, V = (arguments.sequences, 8, arguments.length, 256, 512) if on_gpu else (1, 2, 64, 8, 16)
result = {"date": contest.now(), "sizes": dict(B=B, H=H, S=S, Q=Q, V=V), "left out": {}, "seconds": {},
          "versions": contest.versions("torch", "triton", "mlstm_kernels")}
if lacking := contest.missing("torch", "mlstm_kernels"):
    contest.leave_out(result, "mlstm_kernels", f"{', '.join(lacking)} not installed")
    contest.save(arguments.json, result)
    raise SystemExit(0)

import torch
from mlstm_kernels.torch import get_mlstm_kernel, get_mlstm_step_kernel

torch.manual_seed(0)


element = torch.bfloat16 if on_gpu else torch.float32  # the plain kernels know no bf16 on a CPU


def normal(*shape, dtype=element, mean=0.0):
    return (torch.randn(*shape, device=arguments.device) + mean).to(dtype)


def timed(call):
    if on_gpu:
        import triton.testing

        return 1e-3 * triton.testing.do_bench(call, warmup=20, rep=200, return_mode="median")
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(work, name, make):
    """Times what make() returns."""
    if time.monotonic() - begin > arguments.seconds:
        contest.leave_out(result, f"{work}: {name}", "no time was left")
        return
    try:
        result["seconds"].setdefault(work, {})[name] = timed(make())
        print(f"{work}: {name}: {1e3 * result['seconds'][work][name]:.3f} ms", flush=True)
    except Exception as error:  # one kernel's trouble is not the others'
        contest.leave_out(result, f"{work}: {name}", f"{type(error).__name__}: {(str(error) or '-').splitlines()[0]}")
    if on_gpu:
        torch.cuda.empty_cache()
    contest.save(arguments.json, result)  # what is done stays done


q, k, v = normal(B, H, S, Q), normal(B, H, S, Q), normal(B, H, S, V)
# The kernels take the gates in fp32, as this library's do.
i, f = normal(B, H, S, dtype=torch.float32, mean=-1), normal(B, H, S, dtype=torch.float32, mean=4)
dh = normal(B, H, S, V)
if on_gpu:
    kernels = [("chunkwise--triton_xl_chunk", size) for size in (128, 256, 64)]
    kernels += [("chunkwise--triton_limit_chunk", size) for size in (64, 128)]
else:
    kernels = [("chunkwise--native_custbw", 16)]


def forward(name, size):
    kernel = get_mlstm_kernel(name)

    def call():
        with torch.no_grad():
            kernel(q=q, k=k, v=v, i=i, f=f, chunk_size=size, autocast_kernel_dtype=element)

    return call


def training(name, size):
    kernel = get_mlstm_kernel(name)
    inputs = [x.clone().requires_grad_() for x in (q, k, v, i, f)]

    def call():
        for x in inputs:
            x.grad = None
        out = kernel(*inputs, chunk_size=size, autocast_kernel_dtype=element)
        out.backward(dh.to(out.dtype))

    return call


for name, size in kernels:
    measure("forward", f"{name} {size}", lambda: forward(name, size))
for name, size in kernels:
    measure("forward and backward", f"{name} {size}", lambda: training(name, size))


def step(name, sessions):
    kernel = get_mlstm_step_kernel(name)
    layers = max(2, 128 // sessions) if on_gpu else 2  # states in turn, so that none waits in the cache
    token = dict(q=normal(sessions, H, Q), k=normal(sessions, H, Q), v=normal(sessions, H, V),
                 i=normal(sessions, H, 1, dtype=torch.float32), f=normal(sessions, H, 1, dtype=torch.float32, mean=4))
    states = [dict(c=normal(sessions, H, Q, V, dtype=torch.float32), n=normal(sessions, H, Q, dtype=torch.float32),
                   m=normal(sessions, H, 1, dtype=torch.float32)) for _ in range(layers)]

    def call():  # all layers: the time of one is what is kept
        with torch.no_grad():
            for state in states:
                kernel(**token, **state)

    return call, layers


for sessions in (1, 8, 64) if on_gpu else (1,):
    name = "triton" if on_gpu else "native"
    work = f"step, {sessions} session{'s' * (sessions > 1)}"
    layers = 1

    def make():
        global layers
        call, layers = step(name, sessions)
        return call

    measure(work, name, make)
    if name in result["seconds"].get(work, {}):
        result["seconds"][work][name] /= layers
contest.save(arguments.json, result)
