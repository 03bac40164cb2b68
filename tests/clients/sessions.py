"""Many long sessions at once in one worker whose KV memory does not hold them all: those that do not fit wait, none
fails, and afterwards nothing is held.

Usage: sessions.py BINARIES MODEL [--sessions N] [--tokens N] [--kv-memory SIZE] [--threads N]"""

import argparse
import concurrent.futures
import os
import threading
import time

import api
from cluster import Cluster
from long_text import LongText

MAX_TOKENS = 32


class Watcher:
    """The most that was running and waiting, looked at whenever a session is heard of."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.lock = threading.Lock()
        self.running = self.waiting = 0

    def look(self):
        with self.lock:
            metrics = self.cluster.worker_metrics(0)
            self.running = max(self.running, metrics("longshelf_worker_sequences_running"))
            self.waiting = max(self.waiting, metrics("longshelf_worker_sequences_waiting"))


def ask(cluster, text, watcher=None, **fields):
    """(text of the answer, usage, seconds to the first token) of one session."""
    begun, first, answer, usage = time.monotonic(), None, "", None
    body = {"prompt": text, "max_tokens": MAX_TOKENS, "temperature": 1, "seed": 7,
            "stream_options": {"include_usage": True}, **fields}
    for event in api.events(cluster.http_port, "/v1/completions", body,
                            on_comment=watcher and (lambda comment: watcher.look())):
        assert "error" not in event, event
        usage = event.get("usage") or usage
        if event["choices"] and event["choices"][0]["text"]:
            first = first or time.monotonic() - begun
            answer += event["choices"][0]["text"]
    return answer, usage, first


def memory_mib(cluster):
    """Most resident memory of the worker's shards, MiB."""
    peak = 0
    for pid in cluster.workers[0].descendants("longshelf-shard"):
        with open(f"/proc/{pid}/status") as file:
            peak += next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return peak / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries")
    parser.add_argument("model")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--kv-memory", default="256MiB")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    text = LongText(args.model)
    prompts = [text.of(args.tokens, seed) for seed in range(args.sessions)]
    with Cluster(args.binaries, args.model, kvstore=False,
                 worker_flags=[f"--threads={args.threads}", f"--kv-memory={args.kv_memory}"]) as cluster:
        before = memory_mib(cluster)
        alone = ask(cluster, prompts[-1], user_id="alone")[0]
        watcher = Watcher(cluster)
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(args.sessions) as pool:
            answers = list(pool.map(lambda prompt: ask(cluster, prompt, watcher), prompts))
        seconds = time.monotonic() - begun
        for answer, usage, first in answers:
            assert first is not None and usage["prompt_tokens"] == args.tokens, usage
        assert answers[-1][0] == alone, "the crowd changed an answer"
        assert watcher.waiting > 0, "all fitted: nothing had to wait, the test says nothing"
        # A stream's last event leaves after its blocks were given back, the load's report perhaps a tick later.
        cluster.wait_until(lambda: cluster.worker_metric(0, "longshelf_worker_kv_blocks_used") == 0, "blocks are held")
        n_blocks = cluster.worker_metrics(0)("longshelf_worker_kv_blocks ")
        firsts = sorted(first for _, _, first in answers)
        print(f"{args.sessions} sessions of {args.tokens} tokens: {seconds:.1f} s, first tokens after "
              f"{firsts[0]:.1f} to {firsts[-1]:.1f} s; at most {watcher.running:.0f} ran and {watcher.waiting:.0f} waited; "
              f"{n_blocks:.0f} blocks; resident memory {before:.0f} MiB at first, at most {memory_mib(cluster):.0f} MiB")


if __name__ == "__main__":
    main()
