#!/usr/bin/env python3
"""longshelf, its machine's ceilings, llama.cpp and ik_llama.cpp in one run, taking turns.

    bench/compare.py --out DIR [--build build/release] [--gguf mid.gguf] [--package SCRATCH] [--sweep llama-sweep-bench]
                     [--context 512,4096] [--threads 2] [--batch 1,8] [--rounds 5]

Writes DIR/compare.md (one table: medians of the rounds), DIR/prefill.svg and DIR/decode.svg. Every round runs each
program once, so that a host that drifts drifts for all. peers.md says how to get llama.cpp (--package), ik_llama.cpp
(--sweep) and a model for them (--gguf); one that is not named is left out.
"""
import argparse
import csv
import io
import json
import math
import pathlib
import statistics
import subprocess
import sys
from collections import defaultdict

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 30, 72, 64
COLORS = {"longshelf": "#0b7285", "llama.cpp": "#e67700", "ik_llama.cpp": "#5f3dc4"}


def rows_of(command):
    done = subprocess.run([str(word) for word in command], check=True, text=True, stdout=subprocess.PIPE)
    return list(csv.DictReader(io.StringIO(done.stdout)))


class Comparison:
    def __init__(self, args):
        self.args = args
        self.ceilings = defaultdict(list)  # (quantity, kernel, unit) -> values
        self.speeds = defaultdict(list)    # (phase, context, batch, program) -> (tokens/s, tokens/cpu s)

    def note(self, program, row):
        key = (row["phase"], int(row["context"]), int(row["batch"]), program)
        self.speeds[key].append((float(row["tokens_per_s"]), float(row["tokens_per_cpu_s"])))

    def one_round(self):
        args, bin_dir = self.args, pathlib.Path(self.args.build) / "bin"
        for row in rows_of([bin_dir / "ceilings", "--threads", args.threads, "--rounds", "1"]):
            if int(row["threads"]) == args.threads:
                self.ceilings[row["quantity"], row["kernel"], row["unit"]].append(float(row["median"]))
        for row in rows_of([bin_dir / "engine_bench", "--model", "mid", "--context", args.context, "--batch", args.batch,
                            "--chunk", args.chunk, "--threads", args.threads, "--rounds", args.steps]):
            self.note("longshelf", row)
        if args.package:
            for row in rows_of(["node", HERE / "peer_llama.mjs", "--package", args.package, "--model", args.gguf,
                                "--context", args.context, "--threads", args.threads, "--chunk", args.chunk]):
                self.note("llama.cpp", row)
        if args.sweep:
            self.sweep()

    def sweep(self):
        """Windows of one chunk up to the largest context; before each, some tokens are decoded."""
        args, chunk = self.args, int(self.args.chunk)
        contexts = [int(context) for context in args.context.split(",")]
        command = [args.sweep, "-m", args.gguf, "-c", max(contexts) + 2 * chunk, "-b", chunk, "-ub", chunk, "-n", 32,
                   "-t", args.threads, "-rtr", "-fa", "on", "--output-format", "jsonl"]
        done = subprocess.run([str(word) for word in command], check=True, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)  # where it writes its figures
        for line in done.stdout.splitlines():
            if not line.startswith("{"):
                continue
            window = json.loads(line)
            for context in contexts:
                speed = {context - chunk: ("prefill", "speed_pp"), context: ("decode", "speed_tg")}.get(window["n_kv"])
                if speed is not None:
                    self.speeds[speed[0], context, 1, "ik_llama.cpp"].append((window[speed[1]], math.nan))

    def medians(self):
        """(phase, context, batch) -> program -> (tokens/s, tokens/cpu s)"""
        table = defaultdict(dict)
        for (phase, context, batch, program), values in sorted(self.speeds.items(), reverse=True):
            table[phase, context, batch][program] = tuple(statistics.median(v) for v in zip(*values))
        return table

    def markdown(self):
        args, table = self.args, self.medians()
        yield f"`mid`, {args.threads} threads, prefill chunks of {args.chunk}; medians of {args.rounds} rounds in turns."
        yield ""
        yield "| ceiling | kernel | median |"
        yield "|---|---|---|"
        for (quantity, kernel, unit), values in self.ceilings.items():
            yield f"| {quantity} | {kernel} | {statistics.median(values):.1f} {unit} |"
        yield ""
        yield "| phase | context | sequences | program | tokens/s | tokens per CPU s |"
        yield "|---|---|---|---|---|---|"
        for phase, context, batch in sorted(table, key=lambda k: (k[0] != "prefill", k[1], k[2])):
            for program, (per_s, per_cpu_s) in table[phase, context, batch].items():
                yield f"| {phase} | {context:,} | {batch} | {program} | {per_s:.1f} | {'' if math.isnan(per_cpu_s) else f'{per_cpu_s:.1f}'} |"


def bars(title, groups):
    """SVG of one group of bars for each (label, {program: value})."""
    top = max(value for _, programs in groups for value in programs.values())
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
    yield "<style>text{font-family:system-ui,sans-serif;fill:#343a40}.tick{font-size:12px;fill:#495057}"
    yield ".grid{stroke:#dee2e6}.title{font-size:16px;font-weight:600}</style>"
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/><text class="title" x="{LEFT}" y="30">{title}</text>'
    for i in range(5):
        y = HEIGHT - BOTTOM - plot_h * i / 4
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{top * i / 4:.3g}</text>'
    for i, (program, color) in enumerate(COLORS.items()):
        if any(program in programs for _, programs in groups):
            yield f'<rect x="{LEFT + 110 * i}" y="44" width="12" height="12" fill="{color}"/>'
            yield f'<text class="tick" x="{LEFT + 110 * i + 18}" y="54">{program}</text>'
    group_w = plot_w / len(groups)
    for g, (label, programs) in enumerate(groups):
        bar_w = min(56, group_w * 0.8 / len(programs))
        begin = LEFT + group_w * (g + 0.5) - bar_w * len(programs) / 2
        for i, (program, value) in enumerate(programs.items()):
            height = plot_h * value / top
            x, y = begin + i * bar_w, HEIGHT - BOTTOM - height
            yield f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar_w - 3:.1f}" height="{height:.1f}" fill="{COLORS[program]}"/>'
            yield f'<text class="tick" x="{x + bar_w / 2:.1f}" y="{y - 5:.1f}" text-anchor="middle">{value:.3g}</text>'
        yield (f'<text class="tick" x="{LEFT + group_w * (g + 0.5):.1f}" y="{HEIGHT - BOTTOM + 22}" '
               f'text-anchor="middle">{label}</text>')
    yield f'<text class="tick" x="{LEFT + plot_w / 2}" y="{HEIGHT - 18}" text-anchor="middle">tokens of context</text>'
    yield "</svg>"


def write(comparison, out):
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.md").write_text("\n".join(comparison.markdown()) + "\n")
    table = comparison.medians()
    for phase in ("prefill", "decode"):
        groups = [(f"{context:,}" + (f" x {batch}" if batch > 1 else ""), {p: v[0] for p, v in programs.items()})
                  for (at, context, batch), programs in sorted(table.items(), key=lambda item: item[0][:3])
                  if at == phase]
        svg = bars(f"{phase.capitalize()}, tokens a second, {comparison.args.threads} threads", groups)
        (out / f"{phase}.svg").write_text("\n".join(svg) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--package", help="folder in which node-llama-cpp is installed")
    parser.add_argument("--sweep", help="ik_llama.cpp's llama-sweep-bench")
    parser.add_argument("--gguf", help="written by write_gguf.py mid")
    parser.add_argument("--context", default="512,4096")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--chunk", default="512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7, help="engine_bench's own rounds in each round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if bool(args.package or args.sweep) != bool(args.gguf):
        parser.error("--gguf goes together with --package and --sweep")
    comparison = Comparison(args)
    for n in range(args.rounds):
        print(f"round {n + 1} of {args.rounds}", file=sys.stderr)
        comparison.one_round()
        write(comparison, args.out)  # what there is stays, should a later round fail
    return 0


if __name__ == "__main__":
    sys.exit(main())
