#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The 160M preset against other programs on the same cores, in turns: reading 512 tokens, and decoding one by one.

    python bench/peers/model.py build/bench/model [--rounds 3] [--threads 2] [--json FILE]
        [--torch] [--compile] [--llama-bench PROGRAM --llama DIR]

--torch: transformers' xLSTM in f32 and bf16 (needs torch, transformers, xlstm, mlstm_kernels), --compile: under
torch.compile too (the first time, minutes of compiling).
--llama: llama.cpp's llama-bench on a Llama of equal size, DIR/{bf16,Q8_0,Q4_0,Q4_K_M}.gguf (bench/peers/README.md).
Weights are random: speed does not depend on them. All give the logits of the last token only.
bf16_a16 is ours with bf16 weights and activations rounded to bf16, as PyTorch in bf16 computes.
"""
import os
import pathlib
import statistics
import time

import contest

arguments = contest.arguments(
    __doc__, 3, ("--torch", dict(action="store_true")), ("--compile", dict(action="store_true")), ("--llama-bench", {}),
    ("--llama", dict(type=pathlib.Path)))
result = contest.started(arguments)
bandwidth = {}  # weights → share of the measured read bandwidth in decoding, of every round


def ours(weights):
    names = {f"prefill/{weights}/512": "prefill 512", f"decode/{weights}/16": "decode"}
    if weights.startswith("bf16"):
        names[f"batch/{weights}/8"] = "decode of 8 sessions"

    def run():
        results = contest.benchmarks(arguments.program, arguments.threads, f"^({'|'.join(names)})/real_time$")
        bandwidth.setdefault(weights, []).append(results[f"decode/{weights}/16"]["of bandwidth"])
        return {work: results[name]["tokens/s"] for name, work in names.items()}

    return run


def llama(model):
    def run():
        prefill, decode = contest.program(arguments.llama_bench, "-m", arguments.llama / f"{model}.gguf", "-t",
                                          arguments.threads, "-p", "512", "-n", "64", "-r", "3", "-o", "json")
        return {"prefill 512": prefill["avg_ts"], "decode": decode["avg_ts"]}

    return run


def pytorch(dtype, compiled):
    import torch
    from transformers import xLSTMConfig, xLSTMForCausalLM

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = xLSTMConfig(vocab_size=50304, hidden_size=768, embedding_dim=768, num_hidden_layers=12, num_blocks=12,
                         num_heads=6, chunkwise_kernel="chunkwise--native_custbw", sequence_kernel="native_sequence__native",
                         step_kernel="native", mode="inference", return_last_states=True, autocast_kernel_dtype=dtype,
                         inference_state_dtype="float32")
    model = xLSTMForCausalLM(config).eval().to(getattr(torch, dtype))
    cap = config.output_logit_soft_cap
    prompt = torch.randint(0, 50304, (1, 512))

    def forward(tokens, cache=None):  # the model's own forward would compute the logits of every token
        hidden, cache = model.backbone(tokens, cache_params=cache, use_cache=True, return_dict=True).to_tuple()[:2]
        return cap * torch.tanh(model.lm_head(hidden[:, -1:]).float() / cap), cache

    if compiled:
        forward = torch.compile(forward)

    def run(prefills=2, steps=32):
        with torch.no_grad():
            begin = time.perf_counter()
            for _ in range(prefills):
                _, cache = forward(prompt)
            prefill = time.perf_counter() - begin
            begin = time.perf_counter()
            for _ in range(steps):
                _, cache = forward(prompt[:, :1], cache)
        return {"prefill 512": prefills * 512 / prefill, "decode": steps / (time.perf_counter() - begin)}

    begin = time.perf_counter()
    run(1, 2)  # compiles and warms up
    result.setdefault("first call, s", {})[f"{dtype}{' compiled' if compiled else ''}"] = time.perf_counter() - begin
    return run


lacking = contest.missing("torch", "transformers", "xlstm", "mlstm_kernels")
if (arguments.torch or arguments.compile) and lacking:
    contest.leave_out(result, "PyTorch", f"{', '.join(lacking)} not installed")
    arguments.torch = arguments.compile = False
elif arguments.torch or arguments.compile:
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    result["versions"] = contest.versions("torch", "transformers", "xlstm", "mlstm_kernels")
gguf = {name: arguments.llama and arguments.llama / f"{name}.gguf" for name in ("bf16", "Q8_0", "Q4_0", "Q4_K_M")}
if arguments.llama_bench:
    for needed in [pathlib.Path(arguments.llama_bench), *gguf.values()]:
        if not (needed and needed.exists()):
            contest.leave_out(result, "llama.cpp", f"no {needed or '--llama DIR'}")
            arguments.llama_bench = None
            break

contestants = {}
for weights, dtype, others in (("f32", "float32", ()), ("bf16", "bfloat16", ("bf16",)), ("bf16_a16", None, ()),
                               ("int8", None, ("Q8_0",)), ("int4", None, ("Q4_0", "Q4_K_M"))):
    contestants[f"xlstm {weights}"] = ours(weights)
    for compiled in (False, True):
        if dtype and (arguments.compile if compiled else arguments.torch):
            name = f"PyTorch {weights}{' compiled' if compiled else ''}"
            try:
                contestants[name] = pytorch(dtype, compiled)
            except Exception as error:  # what is wrong with a peer is not a reason to lose the others' figures
                contest.leave_out(result, name, f"{type(error).__name__}: {str(error).splitlines()[0]}")
    if arguments.llama_bench:
        contestants.update({f"llama.cpp {model}": llama(model) for model in others})

samples = contest.in_turns(arguments.rounds, contestants)
result["tokens/s"] = {work: {name: [run[work] for run in runs] for name, runs in samples.items() if work in runs[0]}
                      for work in ("prefill 512", "decode", "decode of 8 sessions")}
result["of bandwidth"] = bandwidth
contest.save(arguments.json, result)
for work, speeds in result["tokens/s"].items():
    print(f"\n| {work} | tokens/s, median | least, most | of read bandwidth |\n|---|---|---|---|")
    for name, values in speeds.items():
        share = bandwidth.get(name.removeprefix("xlstm ")) if work == "decode" else None
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f}, {max(values):.1f} | "
              f"{f'{statistics.median(share):.2f}' if share else ''} |")
