#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training step of transformers' xLSTM in fp32 against ours, also in high precision, in turns on the same cores.

    python bench/peers/training_step.py build/bench/training_step [--model small|160M] [--rounds 3] [--compile]
        [--threads 2] [--json FILE]

A step is forward, loss, backward, clipping and AdamW. Each round takes four steps of both, of which the fastest counts.
Peak memory is each process's own. Without PyTorch ours runs alone.
"""
import json
import os
import statistics
import time

import contest

arguments = contest.arguments(
    __doc__, 3, ("--model", dict(choices=["small", "160M"], default="small")),
    ("--compile", dict(action="store_true", help="torch.compile (minutes of compiling, the first time)")))
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
result = contest.started(arguments, model=arguments.model)
STEPS = 4  # of a round; the fastest counts


def ours(precision):
    def measure():
        run = contest.program(arguments.program, arguments.model, "--steps", STEPS, "--threads", arguments.threads,
                              "--precision", precision)
        return {"seconds": run["seconds"], "peak GB": run["peak_gb"]}

    return measure


def peak_gigabytes():
    with open("/proc/self/status") as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e9


def published():
    import torch
    import torch._dynamo
    from transformers import xLSTMConfig, xLSTMForCausalLM

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    sizes, batch, length = {
        "small": (dict(vocab_size=256, hidden_size=256, embedding_dim=256, num_hidden_layers=6, num_blocks=6,
                       num_heads=4), 8, 256),
        "160M": (dict(vocab_size=50304, hidden_size=768, embedding_dim=768, num_hidden_layers=12, num_blocks=12,
                      num_heads=6), 1, 512),
    }[arguments.model]
    # The published kernels' own backward; plain autograd raises an in-place error in training.
    config = xLSTMConfig(**sizes, chunkwise_kernel="chunkwise--native_custbw",
                         sequence_kernel="native_sequence__native", step_kernel="native", mode="train",
                         return_last_states=True, autocast_kernel_dtype="float32", inference_state_dtype="float32")
    model = xLSTMForCausalLM(config).train().float()
    forward = model
    if arguments.compile:
        # The published backward turns a tensor into a number. Without this each cell would be left out of the graph.
        torch._dynamo.config.capture_scalar_outputs = True
        forward = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.randint(0, sizes["vocab_size"], (batch, length))
    targets = torch.randint(0, sizes["vocab_size"], (batch, length))

    def step():
        start = time.perf_counter()
        logits = forward(tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    result["first call, s"] = step()  # compiles and warms up
    return lambda: {"seconds": min(step() for _ in range(STEPS)), "peak GB": peak_gigabytes()}


contestants = {"ours": ours("highest"), contest.HIGH: ours("high")}
lacking = contest.missing("torch", "transformers", "xlstm", "mlstm_kernels")
if lacking:
    contest.leave_out(result, "PyTorch", f"{', '.join(lacking)} not installed")
else:
    result["versions"] = contest.versions("torch", "transformers", "xlstm", "mlstm_kernels")
    contestants["PyTorch compiled" if arguments.compile else "PyTorch"] = published()
samples = contest.in_turns(arguments.rounds, contestants)
for what in ("seconds", "peak GB"):
    result[what] = {name: [run[what] for run in runs] for name, runs in samples.items()}
contest.save(arguments.json, result)

mine = [name for name in contestants if contest.is_ours(name)]
for name in contestants:
    line = {"who": name, "seconds": round(statistics.median(result["seconds"][name]), 4),
            "peak GB": round(max(result["peak GB"][name]), 3)}
    for own in mine if name not in mine else ():
        line[f"{own} / this, time"] = round(statistics.median(
            a / b for a, b in zip(result["seconds"][own], result["seconds"][name])), 3)
        line[f"{own} / this, memory"] = round(max(result["peak GB"][own]) / line["peak GB"], 3)
    print(json.dumps(line))
