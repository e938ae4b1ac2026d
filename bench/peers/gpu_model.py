#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""transformers' xLSTM on a GPU with mlstm_kernels' Triton kernels, as it is and under torch.compile: reading prompts,
decoding, and a training step, in bf16 with random weights.

    python bench/peers/gpu_model.py --model 7B|1.4B --json FILE [--work prefill,decode,training] [--seconds 120]
        [--sequences 1] [--length 8192] [--no-compile] [--device cpu]

Prefill and decode give the logits of the last token only. Training: weights and moments in fp32, work in bf16
(torch.autocast), AdamW fused. Work that fails is left out with what it said, as is that for which there was no time.
--device cpu: a tiny model with the kernels in plain PyTorch, to try the script.
"""
import argparse
import pathlib
import statistics
import time

import contest

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", choices=["7B", "1.4B"], required=True)
parser.add_argument("--json", type=pathlib.Path, required=True)
parser.add_argument("--work", default="prefill,decode,training")
parser.add_argument("--seconds", type=float, default=120, help="no work is begun later than this")
parser.add_argument("--sequences", type=int, default=1)
parser.add_argument("--length", type=int, default=8192, help="of the training step's sequences")
parser.add_argument("--prompts", default="512,2048,16384")
parser.add_argument("--no-compile", action="store_true")
parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
arguments = parser.parse_args()
begin = time.monotonic()
on_gpu = arguments.device == "cuda"
works = arguments.work.split(",")
if unknown := set(works) - {"prefill", "decode", "training"}:
    parser.error(f"--work: there is no {', '.join(sorted(unknown))}")
result = {"date": contest.now(), "model": arguments.model, "left out": {}, "seconds": {}, "first call, s": {},
          "memory GB": {}, "versions": contest.versions("torch", "triton", "transformers", "xlstm", "mlstm_kernels")}
if lacking := contest.missing("torch", "transformers", "xlstm", "mlstm_kernels"):
    contest.leave_out(result, "PyTorch", f"{', '.join(lacking)} not installed")
    contest.save(arguments.json, result)
    raise SystemExit(0)

import torch
import torch._dynamo
from transformers import xLSTMConfig, xLSTMForCausalLM

torch._dynamo.config.capture_scalar_outputs = True  # the published backward turns a tensor into a number
torch.manual_seed(0)
dim, blocks, heads, vocabulary = {"7B": (4096, 32, 8, 50304), "1.4B": (2048, 24, 8, 50304)}[arguments.model]
prompts = [int(length) for length in arguments.prompts.split(",")]
if not on_gpu:
    dim, blocks, heads, vocabulary, prompts, arguments.length = 128, 2, 4, 256, [32], 64


def model_for(mode):
    kernels = dict(chunkwise_kernel="chunkwise--triton_xl_chunk", sequence_kernel="native_sequence__triton",
                   step_kernel="triton") if on_gpu else dict(chunkwise_kernel="chunkwise--native_custbw",
                                                             sequence_kernel="native_sequence__native",
                                                             step_kernel="native")
    config = xLSTMConfig(vocab_size=vocabulary, hidden_size=dim, embedding_dim=dim, num_hidden_layers=blocks,
                         num_blocks=blocks, num_heads=heads, mode=mode, return_last_states=True,
                         chunk_size=128 if on_gpu else 16, autocast_kernel_dtype="bfloat16",
                         inference_state_dtype="float32", **kernels)
    torch.set_default_device(arguments.device)
    torch.set_default_dtype(torch.float32 if mode == "train" else torch.bfloat16)
    model = xLSTMForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


def wait():
    if on_gpu:
        torch.cuda.synchronize()


def timed(call, runs):
    times = []
    for _ in range(runs):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(work, name, call, runs):
    if time.monotonic() - begin > arguments.seconds:
        contest.leave_out(result, f"{work}: {name}", "no time was left")
        return
    try:
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        result["first call, s"][f"{work}: {name}"] = timed(call, 1)  # compiles
        result["seconds"].setdefault(work, {})[name] = timed(call, runs)
        if on_gpu:
            result["memory GB"].setdefault(work, {})[name] = torch.cuda.max_memory_allocated() / 1e9
        print(f"{work}: {name}: {1e3 * result['seconds'][work][name]:.3f} ms", flush=True)
    except Exception as error:  # one work's trouble is not the others'
        contest.leave_out(result, f"{work}: {name}", f"{type(error).__name__}: {(str(error) or '-').splitlines()[0]}")
    contest.save(arguments.json, result)  # what is done stays done


def contestants(forward):
    yield "PyTorch", forward
    if not arguments.no_compile:
        yield "PyTorch compiled", torch.compile(forward)


if "prefill" in works or "decode" in works:
    model = model_for("inference").eval()
    cap = model.config.output_logit_soft_cap

    def forward(tokens, cache=None):  # the model's own forward would compute the logits of every token
        hidden, cache = model.backbone(tokens, cache_params=cache, use_cache=True, return_dict=True).to_tuple()[:2]
        return cap * torch.tanh(model.lm_head(hidden[:, -1:]).float() / cap), cache

    for name, run in contestants(forward):
        with torch.no_grad():
            if "decode" in works:
                tokens = torch.randint(0, vocabulary, (1, 32 if on_gpu else 4), device=arguments.device)
                try:
                    _, cache = run(tokens)
                    measure("decode 1", name, lambda: run(tokens[:, :1], cache), 30)
                except Exception as error:
                    contest.leave_out(result, f"decode: {name}", f"{type(error).__name__}: {str(error).splitlines()[0]}")
            if "prefill" in works:
                for length in prompts:
                    tokens = torch.randint(0, vocabulary, (1, length), device=arguments.device)
                    measure(f"prefill {length}", name, lambda: run(tokens), 5)
    del model

if "training" in works:
    model = model_for("train").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=on_gpu)
    shape = (arguments.sequences, arguments.length)
    tokens = torch.randint(0, vocabulary, shape, device=arguments.device)
    targets = torch.randint(0, vocabulary, shape, device=arguments.device)
    for name, run in contestants(model):

        def step():
            with torch.autocast(arguments.device, torch.bfloat16):
                logits = run(tokens, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().view(-1, vocabulary), targets.view(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        measure(f"training {shape[0]} × {shape[1]}", name, step, 5)
contest.save(arguments.json, result)
