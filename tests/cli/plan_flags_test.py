#!/usr/bin/env python3
"""`longshelf plan --shards` says what is wrong with its flags, gives the same figures twice, and those that the page for
operators shows: plan_flags_test.py LONGSHELF"""
import json
import pathlib
import re
import shlex
import subprocess
import sys

LONGSHELF = sys.argv[1]
DEMO = str(pathlib.Path(__file__).resolve().parents[2] / "models" / "demo")
PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "operating.md"
WRONG = {
    ("--hosts", "2"): "--hosts is about a group: give --shards too",
    ("--network=25g",): "--network is about a group: give --shards too",
    ("--shards", "-1"): "--shards",
    ("--shards", "2000"): "--shards",
    ("--shards", "3", "--hosts", "2"): "--hosts 2: every host has as many shards as the others, and --shards is 3",
    ("--shards", "2", "--hosts", "4"): "--hosts 4",
    ("--shards", "32", "--model", DEMO): "--shards 32: demo has 16 experts",
    ("--shards", "2", "--network", "25"): '--network "25"',
    ("--shards", "2", "--network", "25Gbit,20"): 'the latency "20"',
    ("--shards", "2", "--network", "25Gbit,20us,quic"): '"quic" is neither rdma nor tcp',
    ("--shards", "2", "--routing", "even"): '--routing "even"',
    ("--shards", "2", "--routing", "hot:300:0.5"): "hot routing: 300 hot experts of 256",
    ("--shards", "2", "--batch", "0"): '--batch "0": must be from 1',
    ("--shards", "2", "--context", "4K,8K"): "--context: one only with --shards",
    ("--shards", "2", "--model", "v3.2"): "v3.2 is there for comparison only",
    ("--shards", "2", "--host-memory", "much"): "--host-memory",
}


def plan(*flags):
    return subprocess.run([LONGSHELF, "plan", *flags], capture_output=True, text=True, timeout=60)


def main():
    failures = []
    for flags, words in WRONG.items():
        done = plan(*flags)
        if done.returncode != 64 or words not in done.stderr or done.stdout:
            failures.append(f"{flags}: exit code {done.returncode}, {done.stderr.strip()!r}; wanted 64 and {words!r}")
    done = plan("--shards", "2", "--model", "/nonexistent")
    if done.returncode != 69:
        failures.append(f"a model that is not there: exit code {done.returncode}, {done.stderr}")
    flags = ("--shards", "4", "--hosts", "4", "--network", "25Gbit,20us", "--model", "flash,pro", "--json")
    first, second = plan(*flags), plan(*flags)
    if first.returncode != 0 or first.stdout != second.stdout:
        failures.append(f"two runs differ: {first.stderr}")
    elif not json.loads(first.stdout)["simulated"]:
        failures.append("it is not labelled")
    shown = re.search(r"```\n\$ longshelf plan (--model flash --shards .*)\n((?:.*\n)*?)```", PAGE.read_text(encoding="utf-8"))
    if not shown or plan(*shlex.split(shown[1])).stdout != shown[2]:
        failures.append(f"docs/operating.md shows other figures than `longshelf plan {shown and shown[1]}`")
    print("\n".join(failures) or "ok")
    return 1 if failures else 0


sys.exit(main())
