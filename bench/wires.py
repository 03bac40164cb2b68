#!/usr/bin/env python3
"""What does a slow wire between two shards cost a step, and do two microbatches pay?

    bench/wires.py [--rates 10gbit,1gbit,200mbit,100mbit] [--tokens 128,512] [--model mid]

Two shards with a core each send all rows by TCP over the loopback interface of a network namespace of their own, which
lets so many bits through in a second, both directions together (needs root). Whole steps and those in two microbatches
take turns; medians over --rounds. `wire` is how long the bytes of a layer take at that rate, `exposed` what a shard
spends in a layer's exchanges and not computing."""
import argparse
import os
import sys
import tempfile

from measure_exchanges import ROOT, mpirun

# Packets of the loopback interface have up to 64 KiB.
BUCKET = "burst 256kb latency 100ms"


def run(args, rate, tokens):
    """Whole steps, and those in two microbatches."""
    slow = f"ip link set lo up && tc qdisc add dev lo root tbf rate {rate} {BUCKET} && exec \"$@\""
    with tempfile.TemporaryDirectory() as run_dir:
        return mpirun("tcp", 2, sorted(os.sched_getaffinity(0)), [
            f"{args.build}/bin/group_step_bench", f"--model={args.model}", f"--rounds={args.rounds}", "--halves",
            f"--run-dir={run_dir}", f"--tokens={tokens}"], around=["unshare", "--net", "sh", "-c", slow, "sh"])


def bits_per_second(rate):
    for unit, factor in (("gbit", 1e9), ("mbit", 1e6)):
        if rate.endswith(unit):
            return float(rate[:-len(unit)]) * factor
    sys.exit(f"--rates: {rate} is not a number of gbit or mbit")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default="mid")
    parser.add_argument("--layers", type=int, default=10, help="of that model")
    parser.add_argument("--rates", default="10gbit,1gbit,200mbit,100mbit")
    parser.add_argument("--tokens", default="128,512")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("rate,tokens,wire_ms,step_ms,step_ms_in_two,ratio,exposed_ms,exposed_ms_in_two")
    for rate in args.rates.split(","):
        for tokens in args.tokens.split(","):
            whole, halves = run(args, rate, tokens)
            wire = 8 * whole["far_bytes"] / args.layers / bits_per_second(rate) * 1e3
            exposed = [line["exposed_us"] / 1e3 for line in (whole, halves)]
            print(f"{rate},{tokens},{wire:.2f},{whole['step_us'] / 1e3:.1f},{halves['step_us'] / 1e3:.1f},"
                  f"{halves['step_us'] / whole['step_us']:.3f},{exposed[0]:.2f},{exposed[1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
