# SPDX-License-Identifier: Apache-2.0
"""What the scripts of this folder share: rounds in turns, benchmark programs' JSON, peers that are not installed."""
import argparse
import datetime
import importlib.util
import json
import pathlib
import re
import subprocess


HIGH = "ours, high precision"  # include/xlstm/cpu/precision.hpp


def is_ours(name):
    return name in ("ours", HIGH)


def arguments(description, rounds, *more):
    """The options that every script has, and `more`: pairs of names and keywords of argparse."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("program", help="the built benchmark program")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path, help="where all numbers of all rounds go")
    for name, options in more:
        parser.add_argument(name, **options)
    return parser.parse_args()


def program(*command):
    """What a program prints as JSON."""
    words = [str(word) for word in command]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def benchmarks(path, threads, filter_, *options):
    """Results of a Google Benchmark program: name without its suffixes → result."""
    output = program(path, f"--threads={threads}", f"--benchmark_filter={filter_}", "--benchmark_format=json", *options)
    return {result["name"].split("/real_time")[0].split("/process_time")[0]: result for result in output["benchmarks"]}


def missing(*packages):
    """Those of the Python packages that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def versions(*packages):
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in packages if not missing(name)}


def leave_out(result, who, why):
    """Says that a peer does not take part, on the terminal and in the result."""
    print(f"left out: {who}: {why}", flush=True)
    result["left out"][who] = why


def in_turns(rounds, contestants):
    """Every round runs every contestant once, in order: name → what each of its runs returned."""
    samples = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            samples[name].append(run())
    return samples


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def started(options, **facts):
    """The start of a script's result."""
    return {"date": now(), "rounds": options.rounds, "threads": options.threads, **facts, "versions": {}, "left out": {}}


def save(path, result):
    """Writes JSON that is easy to compare: five digits, a list of numbers on one line."""
    if path:
        text = json.dumps(rounded(result), indent=1)
        text = re.sub(r"\[[-+\d.,e\s]*\]", lambda numbers: " ".join(numbers[0].split()), text)
        path.write_text(text + "\n")


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
