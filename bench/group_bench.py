#!/usr/bin/env python3
"""How fast is a group of shards, on one host and over several?

    bench/group_bench.py [--model models/demo] [--layouts 1x1,1x2,1x4,2x1,4x1] [--rounds 5] [--json FILE]

A layout HxS is H hosts with S shards each, HxS/N with --microbatches N. --wire slows what leaves a host down, as
"1gbit". One host is this machine; several are network namespaces of it, which need
root, each with a longshelf-host of its own, and TCP between them. Layouts take turns: in each round one stream decodes,
then --streams at once, and then a prompt is read that nobody has seen. Medians over rounds, and the medians of each
round's own ratios to the first layout. Exposed is what shard 0 spends in exchanges and not computing, for each layer;
bytes are what it sends to other shards for a token of its own in each layer, beside the least that must be sent."""
import argparse
import contextlib
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "clients"), str(ROOT / "tests" / "deploy")]
import api  # noqa: E402
from cluster import Cluster, free_ports  # noqa: E402
from machines import Machines  # noqa: E402

TOKEN = "token-of-this-bench-only"
LAYER = "longshelf_worker_expert_exchanges_total"
EXPOSED = "longshelf_worker_expert_exposed_seconds_total"
BYTES = "longshelf_worker_expert_bytes_total"


class Group(Cluster):
    """One router and one worker whose shards are on the hosts of a layout."""

    def __init__(self, args, number, layout):
        shape, _, microbatches = layout.partition("/")
        n_hosts, shards_each = map(int, shape.split("x"))
        self.layout, self.n_hosts, self.n_shards = layout, n_hosts, n_hosts * shards_each
        self.machines = None
        flags = [f"--threads={args.threads}", "--kv-memory=256MiB", "--drafts=none",
                 f"--microbatches={microbatches or 'auto'}"]
        if n_hosts == 1:
            super().__init__(f"{args.build}/bin", args.model, shards=shards_each, kvstore=False, worker_flags=flags)
            return
        self.bin_dir, self.dir = f"{args.build}/bin", tempfile.TemporaryDirectory(prefix="longshelf-group-")
        self.processes, self.workers, self.kvstores = [], [], []
        self.machines = Machines(n_hosts, self.dir.name, number)
        if reason := self.machines.start() or (args.wire and self.machines.slow_down(args.wire)):
            self.stop()
            sys.exit(reason)
        token = os.path.join(self.dir.name, "token")
        with open(token, "w", encoding="ascii") as file:
            file.write(TOKEN)
        self.http_port, self.grpc_port, self.router_admin = free_ports(3)
        addresses = [self.machines.address(h) for h in range(n_hosts)]
        for h in range(1, n_hosts):
            self._start(f"host{h}", "longshelf-host", [f"--listen={addresses[h]}:7310", f"--token-file={token}"],
                        around=self.machines.on(h))
        self.workers.append(self._start("worker", "longshelf-worker", [
            f"--model={args.model}", f"--hosts={','.join(addresses)}", f"--shards-per-host={shards_each}",
            f"--listen={addresses[0]}:7300", "--admin-listen=127.0.0.1:7301", f"--token-file={token}"] + flags,
            around=self.machines.on(0)))
        self.router = self._start("router", "longshelf-router", [
            f"--model={args.model}", f"--workers={addresses[0]}:7300", f"--internal-token-file={token}",
            f"--listen=127.0.0.1:{self.http_port}", f"--grpc-listen=127.0.0.1:{self.grpc_port}",
            f"--admin-listen=127.0.0.1:{self.router_admin}"])
        try:
            self.wait_ready(1)
        except BaseException:
            self.stop()
            raise

    def exchanges(self):
        """What shard 0's exchanges have cost so far."""
        if self.machines is None:
            metric = self.worker_metrics(0)
        else:
            done = subprocess.run(self.machines.on(0, "curl", "-sf", "http://127.0.0.1:7301/metrics"), check=True,
                                  capture_output=True, text=True)
            metric = self._samples(done.stdout)
        return [metric(name) for name in (LAYER, EXPOSED, BYTES)]

    def stop(self):
        codes = super().stop()
        if self.machines is not None:
            self.machines.stop()
            self.machines = None
        return codes


class Stream(threading.Thread):
    def __init__(self, port, prompt, n_tokens, seed):
        super().__init__(daemon=True)
        self.port, self.seed = port, seed
        self.body = {"prompt": prompt, "max_tokens": n_tokens, "temperature": 1, "seed": seed,
                     "stream_options": {"include_usage": True}}
        self.ended, self.usage = 0, None

    def run(self):
        for event in api.events(self.port, "/v1/completions", self.body, timeout=600):
            assert "error" not in event, event
            self.usage = event.get("usage") or self.usage
        self.ended = time.monotonic()


def decode(group, rng, n_streams, args):
    """Tokens a second, from the first request to the last token."""
    streams = [Stream(group.http_port, prompt_of(rng, 8, args), args.answer, rng.randrange(1 << 30))
               for _ in range(n_streams)]
    before, begin = group.exchanges(), time.monotonic()
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.join()
    spent = [b - a for a, b in zip(before, group.exchanges())]
    end = max(s.ended for s in streams)
    made = sum(s.usage["completion_tokens"] for s in streams)
    computed = made - n_streams + sum(s.usage["prompt_tokens"] for s in streams)
    return {"tokens_per_s": made / (end - begin), **exchange_figures(spent),
            "bytes_per_token": spent[2] * group.n_shards / computed / args.n_layers}


def prefill(group, rng, args):
    prompt = prompt_of(rng, args.prompt, args)
    before = group.exchanges()
    begin = time.monotonic()
    status, _, reply = api.post(group.http_port, "/v1/completions", {"prompt": prompt, "max_tokens": 1}, timeout=600)
    took = time.monotonic() - begin
    assert status == 200 and reply["usage"]["prompt_tokens"] == len(prompt), reply
    return {"tokens_per_s": len(prompt) / took, **exchange_figures([b - a for a, b in zip(before, group.exchanges())])}


def exchange_figures(spent):
    return {"exposed_us_per_layer": 1e6 * spent[1] / spent[0] if spent[0] else 0}


def prompt_of(rng, n, args):
    return [rng.randrange(300, args.vocab) for _ in range(n)]


def minimum_bytes(config, n_shards):
    """Of a token in a layer: its row to each other shard that has one of its experts, 8 bytes and a result for each pair
    there. Uniform routing, exact; shards of equal size."""
    experts, used, hidden = config["n_routed_experts"], config["num_experts_per_tok"], config["hidden_size"]
    there = experts // n_shards
    destinations = (n_shards - 1) * (1 - math.comb(experts - there, used) / math.comb(experts, used))
    pairs = used * (1 - there / experts)
    return destinations * (hidden + -(-hidden // 128)) + pairs * (8 + 2 * hidden)


def medians(rounds, first):
    """Of one layout: medians, and medians of the ratios to the first layout's."""
    out = {}
    for phase in rounds[0]:
        out[phase] = {name: statistics.median(r[phase][name] for r in rounds) for name in rounds[0][phase]}
        out[phase]["ratio"] = statistics.median(
            r[phase]["tokens_per_s"] / f[phase]["tokens_per_s"] for r, f in zip(rounds, first))
    return out


def report(args, groups, results):
    print("layout,phase,tokens_per_s,ratio,exposed_us_per_layer,bytes_per_token,least_bytes,bytes_ratio")
    table = {"model": args.name, "cores": len(os.sched_getaffinity(0)), "threads": args.threads, "rounds": args.rounds,
             "layouts": []}
    for group in groups:
        figures = medians(results[group.layout], results[groups[0].layout])
        least = minimum_bytes(args.config, group.n_shards)
        for phase, values in figures.items():
            sent = values.get("bytes_per_token", 0) if phase == f"decode of {args.streams}" else 0
            ratio = sent / least if least and sent else 0
            values.update({"least_bytes": least, "bytes_ratio": ratio})
            print(f"{group.layout},{phase},{values['tokens_per_s']:.1f},{values['ratio']:.3f},"
                  f"{values['exposed_us_per_layer']:.1f},{sent:.0f},{least:.0f},{ratio:.3f}", flush=True)
        table["layouts"].append({"layout": group.layout, "hosts": group.n_hosts, "shards": group.n_shards, **figures})
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"))
    parser.add_argument("--name", help="of the model in the report; its directory's when not given")
    parser.add_argument("--layouts", default="1x1,1x2,1x4,2x1,4x1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--answer", type=int, default=96)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wire", help="rate of each host's interface, as tc takes it")
    parser.add_argument("--json")
    args = parser.parse_args()
    args.name = args.name or pathlib.Path(args.model).resolve().name
    args.config = json.loads((pathlib.Path(args.model) / "config.json").read_text(encoding="utf-8"))
    args.vocab, args.n_layers = args.config["vocab_size"], args.config["num_hidden_layers"]
    rng = random.Random(1)
    with contextlib.ExitStack() as stack:
        groups = []
        for number, layout in enumerate(args.layouts.split(",")):
            group = Group(args, number, layout)
            stack.callback(group.stop)
            groups.append(group)
        results = {group.layout: [] for group in groups}
        for n in range(args.rounds + 1):
            for group in groups:
                figures = {"decode of 1": decode(group, rng, 1, args),
                           f"decode of {args.streams}": decode(group, rng, args.streams, args),
                           "prefill": prefill(group, rng, args)}
                if n > 0:  # the first round faults in what is mapped
                    results[group.layout].append(figures)
        report(args, groups, results)


if __name__ == "__main__":
    main()
