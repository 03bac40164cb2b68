"""A long session outlives the worker that computed it, and a store that restarts empty or is lost: the next turn, on
another worker, finds it in the KV store, takes a fraction of the time, and answers with the same tokens.

Usage: lasting.py BINARIES MODEL [--tokens N] [--restart-store] [--compare] ..."""

import argparse
import os
import time

import api
from cluster import Cluster
from long_text import LongText

MAX_TOKENS = 48


class Turn:
    """One completion: its text, usage, seconds to the first token, and tokens a second after it."""

    def __init__(self, cluster, prompt, **fields):
        begun, first = time.monotonic(), None
        self.text, self.usage, n = "", None, 0
        body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0, "stream_options": {"include_usage": True}}
        for event in api.events(cluster.http_port, "/v1/completions", {**body, **fields}, timeout=3600):
            assert "error" not in event, event
            self.usage = event.get("usage") or self.usage
            if event["choices"] and event["choices"][0]["text"]:
                first = first or time.monotonic()
                last, n = time.monotonic(), n + 1
                self.text += event["choices"][0]["text"]
        assert first is not None, "no token"
        self.seconds = first - begun
        self.rate = (n - 1) / (last - first) if n > 1 and last > first else float("nan")
        self.n_prompt, self.n_cached = self.usage["prompt_tokens"], self.usage["prompt_cache_hit_tokens"]


def resident_mib(cluster, i):
    """Anonymous memory of a worker's shards, MiB."""
    total = 0
    for pid in cluster.workers[i].descendants("longshelf-shard"):
        with open(f"/proc/{pid}/status") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))
    return total / 1024


def busiest(cluster):
    done = [cluster.worker_metric(i, "longshelf_worker_tokens_prefilled_total") for i in range(len(cluster.workers))]
    return done.index(max(done))


def wait_until_stored(cluster, i, n_healed):
    def is_stored():
        metrics = cluster.worker_metrics(i)
        return (metrics("longshelf_worker_offload_queue_bytes") == 0 and
                metrics("longshelf_worker_sequences_running") == 0 and
                metrics("longshelf_worker_healed_blocks_total") >= n_healed)
    cluster.wait_until(is_stored, "the session is not in the store")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries")
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=1, help="after the store has restarted")
    parser.add_argument("--stores", type=int, default=1)
    parser.add_argument("--restart-store", action="store_true", help="the one that holds most restarts empty")
    parser.add_argument("--lose-store", action="store_true", help="it does not come back")
    parser.add_argument("--compare", action="store_true", help="the last answer with one computed from the beginning")
    parser.add_argument("--store-memory", default="64MiB", help="of each worker, for what is on its way")
    parser.add_argument("--kv-memory", default="512MiB")
    parser.add_argument("--memory", default="2GiB", help="of the store")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    text = LongText(args.model)
    session = text.of(args.tokens, seed=1)
    flags = [f"--threads={args.threads}", f"--kv-memory={args.kv_memory}", f"--store-memory={args.store_memory}"]
    with Cluster(args.binaries, args.model, n_workers=2, n_stores=args.stores, worker_flags=flags,
                 kvstore_flags=[f"--memory={args.memory}"]) as cluster:
        first = Turn(cluster, session)
        assert first.n_prompt == args.tokens, first.usage
        owner, other = busiest(cluster), 1 - busiest(cluster)
        wait_until_stored(cluster, owner, 0)
        session += first.text
        if args.restart_store or args.lose_store:
            used = [cluster.store_metrics(i)("longshelf_kvstore_used_bytes") for i in range(args.stores)]
            store = cluster.kvstores[used.index(max(used))]
            store.kill()
            if args.restart_store:
                store.start()
        for turn in range(args.turns):
            session += text.of(100, seed=100 + turn)
            session += Turn(cluster, session).text
        wait_until_stored(cluster, owner, 0.9 * args.tokens / 256 if args.restart_store or args.lose_store else 0)

        cluster.workers[owner].kill()
        session += text.of(100, seed=7)
        before = resident_mib(cluster, other)
        last = Turn(cluster, session)
        grown = resident_mib(cluster, other) - before
        print(f"{args.tokens} tokens: first token after {first.seconds:.2f} s, decode {first.rate:.0f} tokens/s; "
              f"on another worker {last.seconds:.2f} s ({100 * last.seconds / first.seconds:.1f} %), "
              f"{last.n_cached} of {last.n_prompt} tokens from the store, decode {last.rate:.0f} tokens/s; "
              f"worker grew by {grown:.0f} MiB, {cluster.worker_metric(other, 'longshelf_worker_restored_bytes_total') / 2**20:.0f} MiB came")
        assert last.n_cached >= 0.95 * last.n_prompt, last.usage
        if args.compare:
            # Another namespace shares nothing, so all of it is computed.
            alone = Turn(cluster, session, user_id="alone")
            assert alone.n_cached == 0, alone.usage
            assert alone.text == last.text, "a restored session answers otherwise"
            print(f"computed from the beginning: first token after {alone.seconds:.2f} s, decode {alone.rate:.0f} tokens/s")


main()
