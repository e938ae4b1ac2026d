#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A training step of transformers' xLSTM in fp32 against ours, in turns on the same cores.

    python bench/peers/training_step.py build/bench/training_step [--model small|160M] [--rounds 3] [--compile]

A step is forward, loss, backward, clipping and AdamW. Each round times both once; the best of the rounds counts.
Peak memory is each process's own.
"""
import argparse
import json
import os
import resource
import subprocess
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("program", help="the built bench/training_step")
parser.add_argument("--model", choices=["small", "160M"], default="small")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true", help="torch.compile (minutes of compiling)")
arguments = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import torch  # noqa: E402  (after the number of threads is set)
from transformers import xLSTMConfig, xLSTMForCausalLM  # noqa: E402

torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
sizes, batch, length = {
    "small": (dict(vocab_size=256, hidden_size=256, embedding_dim=256, num_hidden_layers=6, num_blocks=6, num_heads=4),
              8, 256),
    "160M": (dict(vocab_size=50304, hidden_size=768, embedding_dim=768, num_hidden_layers=12, num_blocks=12,
                  num_heads=6), 1, 512),
}[arguments.model]
# The published kernels' own backward; plain autograd raises an in-place error in training.
config = xLSTMConfig(**sizes, chunkwise_kernel="chunkwise--native_custbw", sequence_kernel="native_sequence__native",
                     step_kernel="native", mode="train", return_last_states=True, autocast_kernel_dtype="float32",
                     inference_state_dtype="float32")
model = xLSTMForCausalLM(config).train().float()
forward = torch.compile(model) if arguments.compile else model
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


def ours():
    command = [arguments.program, arguments.model, "--steps", "2", "--threads", str(arguments.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


step()
best, mine, mine_memory = 1e30, 1e30, 0.0
for _ in range(arguments.rounds):
    best = min(best, step(), step())
    result = ours()
    mine, mine_memory = min(mine, result["seconds"]), max(mine_memory, result["peak_gb"])
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
print(json.dumps({"model": arguments.model, "compile": arguments.compile, "published_seconds": round(best, 4),
                  "ours_seconds": round(mine, 4), "time_ratio": round(mine / best, 3), "published_gb": round(memory, 3),
                  "ours_gb": mine_memory, "memory_ratio": round(mine_memory / memory, 3)}))
