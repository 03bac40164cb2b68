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
N_STREAMS = 6
KILL_AFTER = 12


def body(i):
    return {"messages": [{"role": "user", "content": "Tell me a long story." if i % 2 else "Count from 1 to 30."}],
            "temperature": 0.8, "seed": 1000 + i, "max_tokens": 150, "thinking": {"type": "disabled"}}


def run(cluster, on_token=None):
    with concurrent.futures.ThreadPoolExecutor(N_STREAMS) as pool:
        return list(pool.map(lambda i: api.streamed_message(cluster.http_port, body(i), on_token=on_token),
                             range(N_STREAMS)))


def kill_worker(cluster):
    cluster.workers[0].kill()


def kill_one_shard(cluster):
    shards = cluster.workers[0].descendants("longshelf-shard")
    assert len(shards) == 2, shards
    os.kill(shards[1], signal.SIGKILL)


# A whole worker goes for good and another takes over; or the only group loses a process and is brought back.
kill, n_workers, shards = {"worker": (kill_worker, 2, 1), "shard": (kill_one_shard, 1, 2)}[sys.argv[3]]
with Cluster(bin_dir, model, n_workers, shards) as cluster:
    expected = run(cluster)
    lock, seen = threading.Lock(), [0]

    def on_token():
        with lock:
            seen[0] += 1
            if seen[0] == KILL_AFTER:
                kill(cluster)

    got = run(cluster, on_token)
    resumed = cluster.metric("longshelf_router_resumes_total")
    retried = cluster.metric("longshelf_router_retries_total")
    for i, (a, b) in enumerate(zip(expected, got)):
        assert a[0] == b[0] and a[1] == b[1], f"stream {i}: expected {a}, got {b}"
        assert a[2]["completion_tokens"] == b[2]["completion_tokens"], (a[2], b[2])
    assert resumed + retried > 0, "the kill hit no stream: the test says nothing"
    print(f"{N_STREAMS} streams equal; {resumed:.0f} resumed, {retried:.0f} retried")
    assert cluster.metric("longshelf_router_worker_up{") == 1
    api.whole_message(cluster.http_port, body(0))
