#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Everything that docs/performance.md has in its tables, measured in turns with the peers that this machine has.

    python bench/peers/run.py build/bench [--only model,cell,training,operations,long] [--rounds 3] [--threads 2]
        [--llama-bench llama/bin/llama-bench --llama llama] [--no-compile] [--json docs/performance.json]

Writes the numbers of every round to the JSON file, part by part (parts that are not chosen keep what they have), and then
tables and plots from it (report.py). What is missing is left out, and said so.
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import contest

HERE = pathlib.Path(__file__).resolve().parent
PARTS = ("model", "cell", "training", "operations", "long")
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("programs", type=pathlib.Path, help="the folder of the built benchmark programs")
parser.add_argument("--only", default=",".join(PARTS))
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--llama-bench", default="llama/bin/llama-bench")
parser.add_argument("--llama", default="llama")
parser.add_argument("--no-compile", action="store_true", help="PyTorch without torch.compile")
parser.add_argument("--json", type=pathlib.Path, default=HERE.parent.parent / "docs" / "performance.json")
arguments = parser.parse_args()
parts = arguments.only.split(",")
if unknown := set(parts) - set(PARTS):
    parser.error(f"--only {','.join(sorted(unknown))}: expected some of {','.join(PARTS)}")
if not (arguments.programs / "machine").exists():
    parser.error(f"{arguments.programs}: expected the folder of the benchmark programs (bench/peers/README.md)")


def cpu():
    """The processor's name, and which of the extensions that matter here it has."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"cpu": platform.processor(), "features": []}
    facts = dict(reversed([[word.strip() for word in line.split(":", 1)] for line in lines if ":" in line]))
    return {"cpu": facts.get("model name", ""), "features": [f for f in FEATURES if f in facts.get("flags", "").split()]}


def machine():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**cpu(), "cores": cores, **contest.program(arguments.programs / "machine", arguments.threads)}


def script(name, program, *options):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "result.json"
        subprocess.run([sys.executable, HERE / name, arguments.programs / program, "--threads", str(arguments.threads),
                        "--rounds", str(arguments.rounds), "--json", file, *options], check=True)
        return json.loads(file.read_text())


def of_model():
    return script("model.py", "model", "--torch", *compiled, "--llama-bench", arguments.llama_bench, "--llama",
                  arguments.llama)


def of_training():
    return {size: script("training_step.py", "training_step", "--model", size, *compiled) for size in ("small", "160M")}


def of_operations():
    formats = ("bf16", "bf16_a16", "int8")
    return {"date": contest.now(), "runs": [contest.program(arguments.programs / "operations", "--json",
                                                            arguments.threads, weights) for weights in formats]}


def of_long():
    return {"date": contest.now(), **contest.program(arguments.programs / "long_text", arguments.threads, "bf16")}


compiled = [] if arguments.no_compile else ["--compile"]
work = {"model": of_model, "cell": lambda: script("cell.py", "mlstm_cell"), "training": of_training,
        "operations": of_operations, "long": of_long}
result = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
result["machine"] = machine()
failed = False
for part in parts:
    begin = time.monotonic()
    try:
        result[part] = work[part]()
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError) as error:
        print(f"left out: {part}: {error}", flush=True)
        failed = True
        continue
    print(f"{part}: {time.monotonic() - begin:.0f} s", flush=True)
    contest.save(arguments.json, result)  # what is done stays done
subprocess.run([sys.executable, HERE / "report.py", arguments.json], check=True)
sys.exit(failed)
