#!/usr/bin/env python3
"""Is the engine slower than it was? Compares processor seconds per token of three small cases with bench/ratchet.json.

    bench/ratchet.py [--build build/release] [--isa avx2] [--update]

Each case counts in units of a fixed scalar loop that is timed in the same run, which takes most of the difference
between one machine and another out of it, and all of other work's share of the processor. Exits 1 when a case costs
over 10 % more than the committed figure of the same kernels, 2 when nothing could be compared. --update writes the
figures of this run.
"""
import argparse
import csv
import io
import json
import pathlib
import subprocess
import sys
import time

TOLERANCE = 0.10
CONTEXT = 4096
BUDGET_S = 60  # no pass begins that would end later
PASSES_MAX = 5
FIGURES = pathlib.Path(__file__).with_name("ratchet.json")


def run(binary, *args):
    # No timeout: a step of a slow machine is slow.
    return subprocess.run([binary, *args], check=True, text=True, stdout=subprocess.PIPE).stdout


class Measuring:
    """The least of every quantity over all passes: disturbances only add."""

    def __init__(self, build, isa):
        self.bin = pathlib.Path(build) / "bin"
        self.isa = isa
        self.kernels = None
        self.least = {}

    def note(self, name, value):
        self.least[name] = min(value, self.least.get(name, value))

    def engine(self, phases, *args):
        text = run(self.bin / "engine_bench", "--model", "mid", "--context", str(CONTEXT), "--threads", "1",
                   "--isa", self.isa, *args)
        for row in csv.DictReader(io.StringIO(text)):
            self.kernels = row["isa"]
            if row["phase"] in phases:
                name = f"{row['phase']} of {row['tokens']} at {row['context']}"
                self.note(name, float(row["median_cpu_s"]) / float(row["tokens"]))

    def one_pass(self):
        self.note("loop", float(run(self.bin / "portable_loop")))
        self.engine({"prefill"}, "--chunk", "512", "--batch", "1", "--rounds", "1")
        self.engine({"decode"}, "--chunk", "1", "--batch", "1,8", "--rounds", "5")
        self.note("loop", float(run(self.bin / "portable_loop")))

    def relative(self):
        return {name: value / self.least["loop"] for name, value in self.least.items() if name != "loop"}


def measure(build, isa):
    measuring = Measuring(build, isa)
    begin = time.monotonic()
    for n in range(PASSES_MAX):
        measuring.one_pass()
        each = (time.monotonic() - begin) / (n + 1)
        if time.monotonic() - begin + each > BUDGET_S:
            break
    return measuring


def compare(figures, kernels, now):
    """Each case's line to print, and whether it became worse."""
    for name, value in now.items():
        committed = figures.get(kernels, {}).get(name)
        if committed is None:
            yield f"{kernels}: {name}: {value:.5f} loops a token, nothing committed", False
            continue
        change = value / committed - 1
        worse = change > TOLERANCE
        yield f"{kernels}: {name}: {value:.5f} loops a token, committed {committed:.5f} ({change:+.1%})" + (
            ": WORSE" if worse else ""), worse


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build/release", help="build directory with engine_bench and portable_loop")
    parser.add_argument("--isa", default="", help="kernels, such as avx2; the best ones unless given")
    parser.add_argument("--update", action="store_true", help="write this run's figures")
    args = parser.parse_args()

    try:
        measuring = measure(args.build, args.isa)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"ratchet.py: {error}; build with: ninja -C {args.build} engine_bench portable_loop", file=sys.stderr)
        return 2
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    now = measuring.relative()
    lines = list(compare(figures, measuring.kernels, now))
    for line, _ in lines:
        print(line)
    if args.update:
        figures[measuring.kernels] = {name: round(value, 6) for name, value in now.items()}
        FIGURES.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
        return 0
    if not figures.get(measuring.kernels):
        return 2
    return 1 if any(worse for _, worse in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
