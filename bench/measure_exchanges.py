#!/usr/bin/env python3
"""Measures what exchanges of expert rows cost here, over shared memory and over TCP, for the model behind
`longshelf plan --shards`:

    bench/measure_exchanges.py > bench/exchanges.jsonl

A JSON object in each line: medians of --rounds, of the slowest shard. `cores` says how many processors the shards had:
with fewer than shards, they take turns. `path` is how messages between shards went: "shared_memory", or "tcp" over the
loopback interface, which has both sides' work but no wire."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The bench's own way of each path; "direct" without neighbours would be the same as "messages".
WAYS = {"shared_memory": ("self,vader", "direct"), "tcp": ("self,tcp", "messages")}


def measure(args, shards, cores, path):
    """The lines of one run."""
    btl, way = WAYS[path]
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    with tempfile.TemporaryDirectory() as run_dir, tempfile.TemporaryDirectory(dir=args.shm) as shm_dir:
        command = ["taskset", "-c", ",".join(map(str, cores)), "mpirun", "--oversubscribe", "--bind-to", "none",
                   "--mca", "pml", "ob1", "--mca", "btl", btl, "--mca", "btl_tcp_if_include", "lo",
                   "--mca", "mpi_yield_when_idle", "1", "-np", str(shards), f"{args.build}/bin/expert_transport_bench",
                   f"--run-dir={run_dir}", f"--shm-dir={shm_dir}", f"--rounds={args.rounds}",
                   f"--routing={args.routing}", f"--tokens={args.tokens}", "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    for line in done.stdout.splitlines():
        row = json.loads(line) if line.startswith("{") else {"way": None}
        if row.pop("way") == way:
            yield {"path": path, "cores": len(cores), **row}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--shm", default="/dev/shm")
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--shards", default="2,4,8")
    parser.add_argument("--tokens", default="1,8,64,512")
    parser.add_argument("--routing", default="uniform,zipf,hot")
    args = parser.parse_args()
    here = sorted(os.sched_getaffinity(0))
    for path in WAYS:
        for shards in map(int, args.shards.split(",")):
            # Two shards also on one core: what taking turns costs.
            for cores in ([here[:1]] if shards == 2 else []) + [here]:
                for row in measure(args, shards, cores, path):
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
