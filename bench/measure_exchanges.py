#!/usr/bin/env python3
"""Measures what exchanges of expert rows cost here, over shared memory and over TCP, for the model behind
`longshelf plan --shards`:

    bench/measure_exchanges.py > bench/exchanges.jsonl

A JSON object in each line: of the slowest shard, medians of --rounds, the least of --repeats runs. `cores` says how many
processors the shards had: with fewer than shards, they take turns, and other groups do the same on the other
processors. `path` is how messages between shards went: "shared_memory", or "tcp" over the loopback interface, which has
both sides' work but no wire. With the routing "neighbour" two shards send each other one message of so many rows: what
bytes cost by their number."""
import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Transports of Open MPI by path, and the bench's own way: "direct" without neighbours would be the same as "messages".
TRANSPORTS = {"shared_memory": "self,vader", "tcp": "self,tcp"}
WAYS = {"shared_memory": "direct", "tcp": "messages"}


def show(progress):
    print(progress, file=sys.stderr, flush=True)


def mpirun(path, shards, cores, command, around=()):
    """The JSON objects that a group of `command` prints; `around` is put before mpirun."""
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    whole = [*around, "taskset", "-c", ",".join(map(str, cores)), "mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "pml",
             "ob1", "--mca", "btl", TRANSPORTS[path], "--mca", "btl_tcp_if_include", "lo", "--mca",
             "mpi_yield_when_idle", "1", "-np", str(shards)] + command
    done = subprocess.run(whole, env=env, capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        sys.exit(f"{' '.join(whole)}\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(args, shards, cores, path):
    with tempfile.TemporaryDirectory() as run_dir, tempfile.TemporaryDirectory(dir=args.shm) as shm_dir:
        lines = mpirun(path, shards, cores, [
            f"{args.build}/bin/expert_transport_bench", f"--run-dir={run_dir}", f"--shm-dir={shm_dir}",
            f"--rounds={args.rounds}", f"--routing={args.routing}", f"--tokens={args.tokens}", "--json",
            f"--way={WAYS[path]}"] + ([f"--bulk={args.bulk}", "--pings"] if shards == 2 else []))
    for row in lines:
        row.pop("way", None)
    return [{"path": path, "cores": len(cores), **row} for row in lines]


def measure_on_each_core(args, cores, path):
    """Two shards on each core at the same time: cores share a memory, and a machine that serves has none idle."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        groups = pool.map(lambda core: measure(args, 2, [core], path), cores)
        return [row for rows in groups for row in rows]


def keep_least(best, row):
    """By what was measured, the least time: what a machine with other work gives in its quietest run. Times beside a
    reference belong together."""
    key = tuple(v for k, v in row.items() if not k.endswith("_us"))
    known = best.setdefault(key, row)
    if "reference_us" in row:
        if row["reference_us"] < known["reference_us"]:
            best[key] = row
        return
    for name in row:
        if name.endswith("_us"):
            known[name] = min(known[name], row[name])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--shm", default="/dev/shm")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--repeats", type=int, default=3, help="runs of everything; the least of their medians counts")
    parser.add_argument("--shards", default="2,4,8")
    parser.add_argument("--tokens", default="1,8,64,512")
    parser.add_argument("--bulk", default="1,4,16,64,256,1024,3072", help="tokens of each of two shards, for one expert")
    parser.add_argument("--routing", default="uniform,zipf,hot")
    args = parser.parse_args()
    here = sorted(os.sched_getaffinity(0))
    best = {}
    for repeat in range(args.repeats):
        for path in WAYS:
            for shards in map(int, args.shards.split(",")):
                show(f"run {repeat + 1} of {args.repeats}: {shards} shards, {path}")
                rows = measure(args, shards, here, path)
                if shards == 2:  # and taking turns
                    rows += measure_on_each_core(args, here, path)
                for row in rows:
                    keep_least(best, row)
    for row in best.values():
        print(json.dumps(row))


if __name__ == "__main__":
    main()
