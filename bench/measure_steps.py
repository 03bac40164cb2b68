#!/usr/bin/env python3
"""Measures whole steps of a group on this machine, and what a step is made of, for the model behind `longshelf plan
--shards`:

    bench/measure_steps.py > bench/steps.jsonl

A JSON object in each line: medians of --rounds, the least of --repeats runs. First the parts, alone on one thread; then groups, as in
measure_exchanges.py."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

from measure_exchanges import ROOT, keep_least, mpirun, show


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--shm", default="/dev/shm")
    parser.add_argument("--model", default="mid")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=2, help="runs of everything; the least of their medians counts")
    parser.add_argument("--shards", default="2,4,8")
    parser.add_argument("--tokens", default="1,8,64,512")
    parser.add_argument("--most", type=int, default=1024, help="tokens of all shards together; larger steps are left out")
    args = parser.parse_args()
    program = [f"{args.build}/bin/group_step_bench", f"--model={args.model}", f"--rounds={args.rounds}"]
    best = {}
    for repeat in range(args.repeats):
        show(f"run {repeat + 1} of {args.repeats}: parts")
        parts = subprocess.run(program + ["--parts", "--tokens=1,2,4,8,16,32,64,128,256,512"], capture_output=True,
                               text=True, timeout=1800)
        if parts.returncode != 0:
            sys.exit(parts.stderr)
        for line in parts.stdout.splitlines():
            row = json.loads(line)
            keep_least(best, {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for path in ("shared_memory", "tcp"):
            for shards in map(int, args.shards.split(",")):
                show(f"run {repeat + 1} of {args.repeats}: {shards} shards, {path}")
                tokens = ",".join(n for n in args.tokens.split(",") if int(n) * shards <= args.most)
                with tempfile.TemporaryDirectory() as run_dir, tempfile.TemporaryDirectory(dir=args.shm) as shm_dir:
                    shm = [f"--shm-dir={shm_dir}"] if path == "shared_memory" else []
                    lines = mpirun(path, shards, sorted(os.sched_getaffinity(0)),
                                   program + shm + [f"--run-dir={run_dir}", f"--tokens={tokens}"])
                for row in lines:
                    keep_least(best, {"path": path, "cores": len(os.sched_getaffinity(0)), **row})
    for row in best.values():
        print(json.dumps(row))


if __name__ == "__main__":
    main()
