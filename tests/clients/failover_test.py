"""A worker, or one process of its group, is killed while it streams: the client sees the same text as without the kill,
and no error. Arguments: binaries, model directory, worker | shard."""

import concurrent.futures
import os
import signal
import sys
import threading

import api
from cluster import Cluster

bin_dir, model = sys.argv[1], sys.argv[2]
N_CANDIDATES, N_STREAMS = 32, 6
MAX_TOKENS = 800


def body(i):
    # At temperature 2 a part of the answers never ends by itself; which ones, their seeds decide once and for all.
    return {"messages": [{"role": "user", "content": "Tell me a long story." if i % 2 else "Count from 1 to 30."}],
            "temperature": 2, "seed": 1000 + i, "max_tokens": MAX_TOKENS, "thinking": {"type": "disabled"}}


def run(cluster, seeds, on_token=lambda i: None):
    with concurrent.futures.ThreadPoolExecutor(len(seeds)) as pool:
        return list(pool.map(lambda i: api.streamed_message(cluster.http_port, body(i), on_token=lambda: on_token(i)),
                             seeds))


def kill_worker(cluster):
    """Kills one that has sequences in its batch."""
    busy = [i for i in range(len(cluster.workers)) if cluster.worker_metric(i, "longshelf_worker_sequences_running") > 0]
    assert busy, "no worker is busy: the kill would hit no stream"
    cluster.workers[busy[0]].kill()


def kill_one_shard(cluster):
    shards = cluster.workers[0].descendants("longshelf-shard")
    assert len(shards) == 2, shards
    os.kill(shards[1], signal.SIGKILL)


# A whole worker goes for good and another takes over; or the only group loses a process and is brought back.
kill, n_workers, shards = {"worker": (kill_worker, 2, 1), "shard": (kill_one_shard, 1, 2)}[sys.argv[3]]
with Cluster(bin_dir, model, n_workers, shards) as cluster:
    answers = dict(enumerate(run(cluster, range(N_CANDIDATES))))
    # Only answers that run to the limit: once each has its first token, each has hundreds to go and is in flight.
    seeds = [i for i, (_, finish, _) in answers.items() if finish == "length"][:N_STREAMS]
    assert len(seeds) == N_STREAMS, f"only {len(seeds)} of {N_CANDIDATES} answers are long"
    lock, begun = threading.Lock(), set()

    def on_token(i):
        with lock:
            n_before = len(begun)
            begun.add(i)
            if n_before < len(begun) == N_STREAMS:
                kill(cluster)

    got = run(cluster, seeds, on_token)
    resumed = cluster.metric("longshelf_router_resumes_total")
    for i, b in zip(seeds, got):
        a = answers[i]
        assert a[0] == b[0] and a[1] == b[1], f"stream {i}: expected {a}, got {b}"
        assert a[2]["completion_tokens"] == b[2]["completion_tokens"] == MAX_TOKENS, (a[2], b[2])
    assert resumed > 0, "the kill hit no stream: the test says nothing"
    print(f"{N_STREAMS} streams of {MAX_TOKENS} tokens equal; {resumed:.0f} resumed")
    assert cluster.metric("longshelf_router_worker_up{") == 1
    api.whole_message(cluster.http_port, body(seeds[0]))
