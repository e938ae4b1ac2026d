#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The 160M preset against other programs on the same cores, in turns: reading 512 tokens, and decoding one by one.

    python bench/peers/model.py build/bench/model [--rounds 3] [--threads 2] [--json FILE]
        [--torch] [--compile] [--llama-bench PROGRAM --llama DIR]

--torch: transformers' xLSTM in fp32 (needs torch, transformers, xlstm, mlstm_kernels), --compile: under torch.compile too.
--llama: llama.cpp's llama-bench on a Llama of equal size, DIR/{bf16,Q8_0,Q4_0,Q4_K_M}.gguf (bench/peers/README.md).
Weights are random: speed does not depend on them. Each round runs every contestant once; medians of the rounds count.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("program", help="the built bench/model")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--torch", action="store_true")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--llama-bench")
parser.add_argument("--llama", type=pathlib.Path)
parser.add_argument("--json", type=pathlib.Path)
arguments = parser.parse_args()

contestants = {"prefill 512": {}, "decode": {}}  # work → name → function that returns tokens/s
bandwidth = {}  # ours: name → share of the measured read bandwidth, of every round


def output(*command):
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def ours(name, benchmark):
    def run():
        result = output(arguments.program, f"--threads={arguments.threads}", f"--benchmark_filter=^{benchmark}/real_time$",
                        "--benchmark_format=json")["benchmarks"][0]
        bandwidth.setdefault(name, []).append(result["of bandwidth"])
        return result["tokens/s"]

    return run


def llama(model, *work):
    return lambda: output(arguments.llama_bench, "-m", arguments.llama / f"{model}.gguf", "-t", arguments.threads, *work,
                          "-r", "3", "-o", "json")[0]["avg_ts"]


for weights in ("f32", "bf16", "int8", "int4"):
    contestants["prefill 512"][f"xlstm {weights}"] = ours(f"prefill {weights}", f"prefill/{weights}/512")
    contestants["decode"][f"xlstm {weights}"] = ours(f"decode {weights}", f"decode/{weights}/16")
if arguments.llama_bench:
    for model in ("bf16", "Q8_0", "Q4_0", "Q4_K_M"):
        contestants["prefill 512"][f"llama.cpp {model}"] = llama(model, "-p", "512", "-n", "0")
        contestants["decode"][f"llama.cpp {model}"] = llama(model, "-p", "0", "-n", "64")
if arguments.torch or arguments.compile:
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch
    from transformers import xLSTMConfig, xLSTMForCausalLM

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = xLSTMConfig(vocab_size=50304, hidden_size=768, embedding_dim=768, num_hidden_layers=12, num_blocks=12,
                         num_heads=6, chunkwise_kernel="chunkwise--native_autograd",
                         sequence_kernel="native_sequence__native", step_kernel="native", mode="inference",
                         return_last_states=True, autocast_kernel_dtype="float32", inference_state_dtype="float32")
    plain = xLSTMForCausalLM(config).eval().float()
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
                cache = plain(prompt[:, :16], use_cache=True).cache_params
                start = time.perf_counter()
                for _ in range(count):
                    cache = forward(prompt[:, :1], cache_params=cache, use_cache=True).cache_params
            return count / (time.perf_counter() - start)

        return run

    for name, forward in (("PyTorch f32", plain), ("PyTorch f32 compiled", arguments.compile and torch.compile(plain))):
        if forward:
            for work, make in (("prefill 512", prefill), ("decode", decode)):
                contestants[work][name] = make(forward)
                contestants[work][name]()  # the first call compiles and warms up

samples = {work: {name: [] for name in group} for work, group in contestants.items()}
for _ in range(arguments.rounds):
    for work, group in contestants.items():
        for name, run in group.items():
            samples[work][name].append(run())

if arguments.json:
    arguments.json.write_text(json.dumps({"threads": arguments.threads, "tokens/s": samples, "of bandwidth": bandwidth},
                                         indent=1) + "\n")
for work, group in samples.items():
    print(f"\n| {work} | tokens/s, median | least, most | of read bandwidth |\n|---|---|---|---|")
    for name, speeds in group.items():
        share = bandwidth.get(f"{work.split()[0]} {name.removeprefix('xlstm ')}") if work == "decode" else None
        print(f"| {name} | {statistics.median(speeds):.1f} | {min(speeds):.1f}, {max(speeds):.1f} | "
              f"{f'{statistics.median(share):.2f}' if share else ''} |")
