#!/usr/bin/env python3
"""What does it cost streams that their KV is offered to a store?

    bench/offload.py [--build build/release] [--model models/demo] [--rounds 9] [--streams 8] [--threads 1]
                     [--prompt 500] [--answer 400] [--json FILE]

Two clusters, one with a KV store and one without, take turns: in each round all streams begin at once, with prompts
that neither has seen, the same in both. CSV on standard output: medians, and the ratios of with to without in the same
round. Processor time is of the worker and, where there is one, the store: it holds still when the machine has other
work, wall time does not."""
import argparse
import json
import pathlib
import statistics
import sys
import threading
import time

import long_sessions
from long_sessions import ROOT, Cluster, LongText, api, cpu_s, worker_pids


class Stream(threading.Thread):
    def __init__(self, port, prompt, n_tokens, seed):
        super().__init__(daemon=True)
        self.port, self.prompt, self.n_tokens, self.seed = port, prompt, n_tokens, seed
        self.text, self.times = "", []

    def run(self):
        body = {"prompt": self.prompt, "max_tokens": self.n_tokens, "temperature": 1, "seed": self.seed,
                "stream_options": {"include_usage": True}}
        for event in api.events(self.port, "/v1/completions", body, timeout=600):
            assert "error" not in event, event
            if event.get("usage"):
                self.n_made = event["usage"]["completion_tokens"]
            if event["choices"] and event["choices"][0]["text"]:
                self.text += event["choices"][0]["text"]
                self.times.append(time.monotonic())


class Side:
    def __init__(self, args, with_store):
        self.args, self.with_store = args, with_store
        self.cluster = Cluster(f"{args.build}/bin", args.model, kvstore=with_store,
                               worker_flags=[f"--threads={args.threads}", "--kv-memory=256MiB"])

    def processor_s(self):
        stores = [store.popen.pid for store in self.cluster.kvstores]
        return cpu_s(*worker_pids(self.cluster)), cpu_s(*stores)

    def round(self, prompts):
        worker_s, store_s = self.processor_s()
        begun = time.monotonic()
        streams = [Stream(self.cluster.http_port, prompt, self.args.answer, i) for i, prompt in enumerate(prompts)]
        for stream in streams:
            stream.start()
        for stream in streams:
            stream.join()
        took = time.monotonic() - begun
        if self.with_store:  # what is still on its way belongs to the round
            self.cluster.wait_until(
                lambda: self.cluster.worker_metric(0, "longshelf_worker_offload_queue_bytes") == 0, "not offered")
        worker_after_s, store_after_s = self.processor_s()
        n = sum(stream.n_made for stream in streams)
        per_token = [(stream.times[-1] - stream.times[0]) / (stream.n_made - 1) for stream in streams]
        return [stream.text for stream in streams], {
            "tokens_per_s": n / took, "ms_per_token": 1e3 * statistics.mean(per_token), "tokens": n,
            "worker_cpu_ms_per_token": 1e3 * (worker_after_s - worker_s) / n,
            "store_cpu_ms_per_token": 1e3 * (store_after_s - store_s) / n}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=500)
    parser.add_argument("--answer", type=int, default=400)
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    text = LongText(args.model)
    sides = {"without": Side(args, False), "with": Side(args, True)}
    rounds = []
    try:
        for n in range(args.rounds + 1):
            prompts = [text.of(args.prompt, seed=1000 * n + i) for i in range(args.streams)]
            found, texts = {}, {}
            # Whoever was first is second the next time.
            for name in sorted(sides, reverse=n % 2 == 0):
                texts[name], found[name] = sides[name].round(prompts)
            assert texts["with"] == texts["without"], "the store changed an answer"
            if n == 0:
                continue  # warms up
            rounds.append(found)
            long_sessions.say(f"round {n}: {found['without']['ms_per_token']:.1f} ms a token without, "
                              f"{found['with']['ms_per_token']:.1f} with")
        offered = sides["with"].cluster.worker_metric(0, "longshelf_worker_offload_bytes_total")
        long_sessions.say(f"{offered / 2**20:.0f} MiB went to the store")
    finally:
        for side in sides.values():
            side.cluster.stop()
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rounds, indent=1) + "\n")
    print("figure,without,with,ratio")
    for figure in ("tokens_per_s", "ms_per_token", "worker_cpu_ms_per_token", "store_cpu_ms_per_token"):
        without, with_store = ([each[side][figure] for each in rounds] for side in ("without", "with"))
        ratio = statistics.median(b / a if a else float("nan") for a, b in zip(without, with_store))
        print(f"{figure},{statistics.median(without):.3f},{statistics.median(with_store):.3f},{ratio:.3f}")
    print(f"rounds of {args.streams} streams,{len(rounds)},{len(rounds)},")


if __name__ == "__main__":
    main()
