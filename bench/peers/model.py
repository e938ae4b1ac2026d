#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The 160M preset against transformers' xLSTM on the same cores, in turns: reading 512 tokens, and decoding.

    python bench/peers/model.py build/bench/model [--rounds 3] [--threads 2] [--compile]

Needs PyTorch, transformers, xlstm and mlstm_kernels, and this repository's benchmark program. Weights are random: speed
does not depend on them. Each round times every contestant once; the table has the best of the rounds.
"""
import argparse
import json
import os
import subprocess
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("program", help="the built bench/model")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--compile", action="store_true", help="torch.compile as well (minutes of compiling)")
arguments = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import torch  # noqa: E402  (after the number of threads is set)
from transformers import xLSTMConfig, xLSTMForCausalLM  # noqa: E402

torch.set_num_threads(arguments.threads)
torch.manual_seed(0)
config = xLSTMConfig(vocab_size=50304, hidden_size=768, embedding_dim=768, num_hidden_layers=12, num_blocks=12,
                     num_heads=6, chunkwise_kernel="chunkwise--native_autograd",
                     sequence_kernel="native_sequence__native", step_kernel="native", mode="inference",
                     return_last_states=True, autocast_kernel_dtype="float32", inference_state_dtype="float32")
model = xLSTMForCausalLM(config).eval().float()
prompt = torch.randint(0, 50304, (1, 512))


def prefill(forward):
    def run():
        start = time.perf_counter()
        with torch.no_grad():
            forward(prompt, use_cache=True)
        return 512 / (time.perf_counter() - start)

    return run


def decode(forward, count=16):
    def run():
        with torch.no_grad():
            cache = forward(prompt[:, :16], use_cache=True).cache_params
            token = prompt[:, :1]
            start = time.perf_counter()
            for _ in range(count):
                cache = forward(token, cache_params=cache, use_cache=True).cache_params
        return count / (time.perf_counter() - start)

    return run


def ours(pattern):
    def run():
        output = subprocess.run([arguments.program, f"--threads={arguments.threads}",
                                 f"--benchmark_filter={pattern}", "--benchmark_format=json"],
                                check=True, capture_output=True, text=True).stdout
        return json.loads(output)["benchmarks"][0]["tokens/s"]

    return run


contestants = {
    "prefill 512": {"xlstm f32": ours("^prefill<float>/512/"), "xlstm bf16": ours("^prefill<bf16>/512/"),
                    "PyTorch": prefill(model)},
    "decode": {"xlstm f32": ours("^decode<float>/16/"), "xlstm bf16": ours("^decode<bf16>/16/"),
               "PyTorch": decode(model)},
}
if arguments.compile:
    compiled = torch.compile(model)
    contestants["prefill 512"]["PyTorch compiled"] = prefill(compiled)
    contestants["decode"]["PyTorch compiled"] = decode(compiled)

best = {work: {name: 0.0 for name in group} for work, group in contestants.items()}
for round_number in range(arguments.rounds + 1):
    for work, group in contestants.items():
        for name, run in group.items():
            speed = run()
            if round_number > 0 or name.startswith("xlstm"):  # PyTorch's first round warms it up
                best[work][name] = max(best[work][name], speed)

print("| work | " + " | ".join(("contestant", "tokens/s", "of PyTorch")) + " |")
print("|---|---|---|---|")
for work, group in best.items():
    for name, speed in group.items():
        print(f"| {work} | {name} | {speed:.1f} | {speed / group['PyTorch']:.2f} |")
