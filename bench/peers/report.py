#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of docs/performance.md from the numbers that run.py wrote. Measures nothing.

    python bench/peers/report.py [docs/performance.json]

The tables go into the Markdown file of the JSON file's name, between <!-- begin: NAME --> and <!-- end: NAME -->; what is
around them is left alone. The plots (with matplotlib, if it is there) go into performance-NAME.svg beside it.
"""
import json
import pathlib
import re
import statistics
import sys

import contest

PEERS = {  # weights → those to compare with
    "f32": ("PyTorch f32", "PyTorch f32 compiled"),
    "bf16": ("PyTorch bf16", "PyTorch bf16 compiled", "llama.cpp bf16"),
    "bf16_a16": ("PyTorch bf16", "PyTorch bf16 compiled", "llama.cpp bf16"),
    "int8": ("llama.cpp Q8_0",),
    "int4": ("llama.cpp Q4_0", "llama.cpp Q4_K_M"),
}


TITLES = {"bf16_a16": "bf16, activations bf16"}


def title(weights):
    return TITLES.get(weights, weights)


def median(values):
    return statistics.median(values)


def number(value):
    """Three or four digits, more before the point where there are more."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def spread(values, digits):
    """A median, and between which values the rounds lie."""
    text = f"{median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(mine, theirs):
    """Round by round: what was measured in the same minute is compared."""
    return [a / b for a, b in zip(mine, theirs)]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def when(part):
    facts = [part["date"]]
    if rounds := part.get("rounds"):
        facts.append(f"{rounds} round{'s' * (rounds > 1)}")
    facts += [f"{name} {version}" for name, version in part.get("versions", {}).items()]
    return ", ".join(facts) + "." + "".join(f" Left out: {who} ({why})." for who, why in part.get("left out", {}).items())


def machine_text(result):
    m = result["machine"]
    loaded = m.get("AMX with loads GFLOP/s")
    loaded = f"; {loaded} GFLOP/s of AMX bf16 with loads of its operands, in the middle of 201 tries" if loaded else ""
    return (f"{m['cpu']}, {m['cores']} cores ({', '.join(m['features'])}), {m['threads']} threads; {m['compiler']}, "
            f"compiled for {', '.join(m['compiled for'].split())}. Measured ceilings: {m['GB/s']} GB/s of reading; "
            f"multiply-adds: {peaks(m)}{loaded}.")


def peaks(measured):
    """The peaks of multiply-adds; 0 stands for what the machine does not have."""
    names = ("fp32 GFLOP/s", "AMX bf16 GFLOP/s", "VNNI int8 GOP/s")
    words = [(measured[name], *name.rsplit(" ", 1)) for name in names if measured.get(name)]
    return ", ".join(f"{value} {unit} of {what}" for value, what, unit in words)


def speeds_table(part, work):
    speeds = part["tokens/s"][work]
    rows = []
    for weights, peers in PEERS.items():
        mine = speeds.get(f"xlstm {weights}")
        if not mine:
            continue
        first = [title(weights), number(median(mine))]
        if work == "decode":
            first.append(f"{median(part['of bandwidth'][weights]):.2f}")
        peers = [peer for peer in peers if peer in speeds] or [None]
        for peer in peers:
            beside = [peer, number(median(speeds[peer])), spread(ratios(mine, speeds[peer]), 2)] if peer else ["", "", ""]
            rows.append(first + beside)
            first = [""] * len(first)
    share = ["of read bandwidth"] if work == "decode" else []
    return table(["weights", "tokens/s", *share, "beside", "tokens/s", "ours / theirs"], rows)


def batch_table(part):
    speeds = part["tokens/s"]
    rows = []
    for weights in ("bf16", "bf16_a16"):
        if batch := speeds["decode of 8 sessions"].get(f"xlstm {weights}"):
            single = speeds["decode"][f"xlstm {weights}"]
            rows.append([title(weights), number(median(batch)), spread(ratios(batch, single), 2)])
    return table(["eight sessions in one pass", "tokens/s", "of one session's"], rows)


def precise(title, name):
    """A row's title with what `name`, one of ours, has beside fp32."""
    return title + name.removeprefix("ours")


AS_IT_COMES = "chunkwise--native_custbw 64"  # the chunk that mlstm_kernels takes where none is asked for


def cell_rows(part):
    for work, clocks in part["seconds"].items():
        others = {name: times for name, times in clocks["wall"].items() if not contest.is_ours(name)}
        best = min(others, key=lambda name: median(others[name]), default=None)
        for name in filter(contest.is_ours, clocks["wall"]):
            yield precise(work, name), clocks["wall"][name], best, others.get(best)


def cell_table(part):
    rows = []
    for work, mine, name, theirs in cell_rows(part):
        beside = [duration(median(theirs)), f"`{name}`", spread(ratios(mine, theirs), 3)] if name else ["", "", ""]
        usual = part["seconds"][work.split(",")[0]]["wall"].get(AS_IT_COMES)
        rows.append([work, duration(median(mine)), *beside, spread(ratios(mine, usual), 3) if usual else ""])
    return table(["", "ours", "fastest other", "which", "ours / theirs", f"ours / `{AS_IT_COMES}`"], rows)


TRAINING = {"160M": "160M, batch 1 × 512", "small": "D 256, 6 blocks, vocabulary 256, batch 8 × 256"}


def training_rows(part):
    """Title, run, the name of ours in it, the name of the peer or None."""
    for model, title in TRAINING.items():
        run = part[model]
        peer = next((name for name in run["seconds"] if not contest.is_ours(name)), None)
        for name in filter(contest.is_ours, run["seconds"]):
            yield precise(title, name), run, name, peer


def training_table(part):
    def cost(run, name):
        return f"{median(run['seconds'][name]):.3g} s, {max(run['peak GB'][name]):.2f} GB"

    rows = []
    for title, run, ours, peer in training_rows(part):
        beside = ["", "", ""]
        if peer:
            memory = max(run["peak GB"][ours]) / max(run["peak GB"][peer])
            time = spread(ratios(run["seconds"][ours], run["seconds"][peer]), 2)
            beside = [cost(run, peer), f"{time} ×", f"{memory:.2f} ×"]
        rows.append([title, cost(run, ours), *beside])
    peer = next((peer for *_, peer in training_rows(part) if peer), "PyTorch")
    return table(["", "ours", peer, "time, ours / theirs", "peak memory, ours / theirs"], rows)


def operations_tables(part):
    texts = []
    for run in part["runs"]:
        for a_pass in run["passes"]:
            rows = []
            for row in a_pass["operations"]:
                time, floor = row["us"], row["floor us"]
                rows.append([row["name"], str(row["calls"] or ""), f"{time:.1f}", f"{100 * time / a_pass['us']:.1f} %",
                             *([f"{floor:.1f}", f"{time / floor:.2f}"] if floor else ["", ""])])
            ceilings = f"{run['GB/s']} GB/s, {peaks(run)}"
            texts.append(f"{a_pass['title']}: {a_pass['us'] / 1e3:.3f} ms ({ceilings})\n\n" +
                         table(["operation", "calls", "µs", "share", "floor, µs", "time / floor"], rows))
    return "\n\n".join(texts)


def long_table(part):
    def row(title, speeds, few, many):
        short, long = speeds[few], speeds[many]
        in_turns = len(short) == len(long)
        ratio = median(ratios(long, short)) if in_turns else median(long) / median(short)
        return [title, number(median(short)), number(median(long)), f"{ratio:.3f}"]

    memory = part["MB resident, peak"]
    speeds = table([f"{part['weights']}, tokens/s", "short", "long", "long / short"], [
        row("prefill of 2,048 and of 65,536 tokens", part["prefill tokens/s"], "2048", "65536"),
        row("decode at position 100 and at 100,000", part["decode tokens/s"], "100", "100000"),
    ])
    names = {"start": "before", "2048 tokens": "2,048 tokens read", "65536 tokens": "65,536 tokens read",
             "100000 tokens": "100,000 tokens read", "decoding": "decoding there"}
    return speeds + "\n\n" + table(["memory, MB", "resident", "peak"], [
        [names[stage], f"{resident:.1f}", f"{peak:.1f}"] for stage, (resident, peak) in memory.items()])


def texts(result):
    """Name of a place in the Markdown file → what comes there."""
    found = {"machine": machine_text(result)}
    if part := result.get("model"):
        found["decode"] = speeds_table(part, "decode")
        found["prefill"] = speeds_table(part, "prefill 512")
        found["batch"] = batch_table(part)
        found["model run"] = when(part)
    if part := result.get("cell"):
        found["cell"] = cell_table(part) + "\n\n" + when(part)
    if part := result.get("training"):
        found["training"] = training_table(part) + "\n\n" + when(part["160M"])
    if part := result.get("operations"):
        found["operations"] = operations_tables(part) + "\n\n" + when(part)
    if part := result.get("long"):
        found["long"] = long_table(part) + "\n\n" + when(part)
    return found


def fill(markdown, found):
    """The Markdown text with every place that has a text filled."""
    for name, text in found.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        if markdown.count(begin) != 1 or markdown.count(end) != 1 or markdown.index(begin) > markdown.index(end):
            sys.exit(f"expected one {begin} and after it one {end}")
        before, rest = markdown.split(begin)
        markdown = f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"
    return markdown


OURS, THEIRS = "#1f5fa8", {"PyTorch": "#d9822b", "mlstm_kernels": "#d9822b", "llama.cpp": "#7a7a7a"}


def colour(name):
    return next((c for peer, c in THEIRS.items() if name.startswith(peer)), OURS)


def bars(path, title, groups):
    """Horizontal bars: groups of (name, value, label)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "xlstm", "font.size": 10,
                                "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Arial"]})
    from matplotlib import pyplot

    names, values, labels, places, place = [], [], [], [], 0.0
    for group in groups:
        for name, value, label in group:
            names.append(name)
            values.append(value)
            labels.append(label)
            places.append(place)
            place += 1
        place += 0.6
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.27 * place), facecolor="white", layout="constrained")
    axes.barh(places, values, color=[colour(name) for name in names])
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(values))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title, loc="left", fontsize=11)
    for y, value, label in zip(places, values, labels):
        axes.text(value, y, f" {label}", va="center")
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.MULTILINE))


def speed_groups(speeds):
    for weights, peers in PEERS.items():
        mine = speeds.get(f"xlstm {weights}")
        if not mine:
            continue
        group = [(f"xlstm {title(weights)}", median(mine), number(median(mine)))]
        for peer in peers:
            if theirs := speeds.get(peer):
                label = f"{number(median(theirs))}  (ours {median(ratios(mine, theirs)):.2f} ×)"
                group.append((peer, median(theirs), label))
        yield group


def duration(seconds):
    return f"{number(1e3 * seconds)} ms" if seconds < 1 else f"{number(seconds)} s"


def time_groups(result):
    """Theirs as 1, our time as a share of it."""
    contests = []
    for work, mine, name, theirs in cell_rows(result["cell"]) if "cell" in result else ():
        contests.append((f"cell, {work}", mine, "mlstm_kernels", theirs))
    for title, run, ours, peer in training_rows(result["training"]) if "training" in result else ():
        name = precise(f"training step, {title.split(',')[0]}", ours)
        contests.append((name, run["seconds"][ours], peer, run["seconds"].get(peer)))
    for work, mine, name, theirs in contests:
        if theirs:
            share = median(ratios(mine, theirs))
            yield [(f"{work}: xlstm", share, f"{duration(median(mine))}  ({share:.2f} ×)"),
                   (name, 1, duration(median(theirs)))]


def plots(result, stem):
    if contest.missing("matplotlib"):
        print("left out: plots: matplotlib not installed")
        return
    threads = result["machine"]["threads"]
    if part := result.get("model"):
        speeds = part["tokens/s"]
        for name, work, title in (("decode", "decode", "Decode of one session"),
                                  ("prefill", "prefill 512", "Prefill of 512 tokens")):
            bars(stem.with_name(f"{stem.name}-{name}.svg"), f"{title}, tokens/s, 160M parameters, {threads} threads",
                 speed_groups(speeds[work]))
    if groups := list(time_groups(result)):
        bars(stem.with_name(f"{stem.name}-time.svg"), "Time beside the published PyTorch code's",
             groups)


def main():
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    source = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "docs" / "performance.json"
    result = json.loads(source.read_text())
    markdown = source.with_suffix(".md")
    markdown.write_text(fill(markdown.read_text(), texts(result)))
    plots(result, source.with_suffix(""))


if __name__ == "__main__":
    main()
