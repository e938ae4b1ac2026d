#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The tables of a visit to a GPU machine (bench/peers/gpu), from its visit.json.

    python bench/peers/gpu_tables.py VISIT.json [docs/cuda.md]

Prints them, or puts them into the Markdown file between <!-- begin: visit --> and <!-- end: visit -->.
"""
import json
import pathlib
import sys

import report


def three(x):
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def ratio(mine, theirs):
    return f"{mine / theirs:.2f}" if mine and theirs else ""


def kernels(part):
    rows = [[k["kernel"], three(k["us"]), three(k["floor us"]), ratio(k["us"], k["floor us"])] for k in part["kernels"]]
    shape = f"{part['sequences']} × {part['length']} tokens"
    return (f"{part['device']}: a copy moves {part['copy GB/s']:.0f} GB/s, a bf16 product of 8192 × 8192 matrices runs at "
            f"{part['bf16 TFLOP/s']:.0f} TFLOP/s. Rows of {shape}; floors by these two.\n\n"
            + report.table(["kernel", "µs", "floor, µs", "time / floor"], rows))


def ms(seconds):
    return f"{1e3 * seconds:.4g} ms" if seconds else ""


def best(times):
    """The smallest of name → seconds, as (name, seconds)."""
    return min(times.items(), key=lambda item: item[1], default=(None, None))


def cell(result):
    """Ours beside the best of mlstm_kernels' Triton kernels."""
    ours, peers = result.get("kernels"), result.get("cell peers", {}).get("seconds", {})
    rows = []
    for work in ("forward", "forward and backward"):
        mine = {f"tuning {c['tuning']}, chunks of {c['chunk size']}": 1e-6 * c["us"]
                for c in (ours or {}).get("chunkwise", []) if c["work"] == work}
        rows.append([work, *best(mine), *best(peers.get(work, {}))])
    steps = {k["kernel"].removeprefix("mLSTM "): 1e-6 * k["us"] for k in (ours or {}).get("kernels", [])
             if k["kernel"].startswith("mLSTM step")}
    for work in dict.fromkeys([*steps, *(work for work in peers if work.startswith("step"))]):
        rows.append([work, "", steps.get(work), *best(peers.get(work, {}))])
    rows = [row for row in rows if row[2] or row[4]]
    if not rows:
        return ""
    return report.table(["mLSTM cell, bf16", "ours", "how", "fastest of mlstm_kernels", "which", "ours / theirs"],
                        [[work, ms(mine), how or "", ms(theirs), which or "", ratio(mine, theirs)]
                         for work, how, mine, which, theirs in rows])


def models(result):
    rows = []
    for size in ("7B", "1.4B"):
        peers = result.get(f"model peers {size}", {})
        seen = set()
        training = result.get("training", {}).get("runs", []) if size == "1.4B" else []
        for run in result.get(f"model {size}", {}).get("runs", []) + training:
            work = f"{run['work']} {run['count']}"
            seen.add(work)
            name, theirs = best(peers.get("seconds", {}).get(work, {}))
            memory = peers.get("memory GB", {}).get(work, {}).get(name)
            rows.append([f"{size}: {work}", three(run["ms"]), three(run["floor ms"]) if "floor ms" in run else "",
                         ratio(run["ms"], run.get("floor ms")), three(1e3 * theirs) if theirs else "", name or "",
                         ratio(run["ms"], theirs and 1e3 * theirs), f"{memory:.1f}" if memory else ""])
        for work, times in peers.get("seconds", {}).items():
            if work not in seen:
                name, theirs = best(times)
                memory = peers.get("memory GB", {}).get(work, {}).get(name)
                rows.append([f"{size}: {work}", "", "", "", three(1e3 * theirs), name, "", f"{memory:.1f}" if memory else ""])
    if not rows:
        return ""
    ours = ", ".join(f"{size}: {result[f'model {size}']['memory GB']:.1f} GB" for size in ("7B", "1.4B")
                     if f"model {size}" in result)
    if "training" in result:
        ours += f"{', ' if ours else ''}training the 1.4B: {result['training']['memory GB']:.1f} GB"
    table = report.table(["model, bf16", "ms", "floor, ms", "time / floor", "PyTorch's best, ms", "which", "ours / theirs",
                          "its peak GB"], rows)
    return table + (f"\n\nOurs took of the device's memory, {ours}." if ours else "")


def tables(result):
    lines = [f"{result['date']}, {result['gpu'] or 'no GPU'}."]
    if "tests" in result:
        lines.append(f"`ctest -L gpu`: {result['tests']}.")
    if result.get("sanitizer"):
        lines.append("compute-sanitizer: " + "; ".join(f"{tool}: {said}" for tool, said in result["sanitizer"].items()) + ".")
    versions = {name: version for part in result.values() if isinstance(part, dict)
                for name, version in part.get("versions", {}).items()}
    if versions:
        lines.append(", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    if result["left out"]:
        lines.append("Left out: " + "; ".join(f"{who} ({why})" for who, why in result["left out"].items()) + ".")
    texts = ["\n".join(lines)]
    if "kernels" in result:
        texts.append(kernels(result["kernels"]))
    texts += [cell(result), models(result)]
    return "\n\n".join(text for text in texts if text) + "\n"


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(f"usage: {sys.argv[0]} VISIT.json [FILE.md]")
    made = tables(json.loads(pathlib.Path(sys.argv[1]).read_text()))
    if len(sys.argv) == 3:
        file = pathlib.Path(sys.argv[2])
        file.write_text(report.fill(file.read_text(), {"visit": made.rstrip()}))
    else:
        print(made, end="")
