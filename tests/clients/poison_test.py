"""Two real groups are killed while they compute one request: it is refused, by name, and nobody else is. Whoever shared
a group with it gets the same text as without the kills. Arguments: binaries, model directory."""

import concurrent.futures
import os
import signal
import sys
import threading
import time

import api
from cluster import Cluster

bin_dir, model = sys.argv[1], sys.argv[2]
N_WORKERS, N_NEIGHBOURS, MAX_TOKENS = 3, 6, 600
POISON_ID = "poison-7"
SECRET = "xylophonic"
QUEUE = "longshelf_worker_prefill_queue_tokens"


def neighbour(i):
    return {"messages": [{"role": "user", "content": "Count from 1 to 30."}], "temperature": 2, "seed": 1000 + i,
            "max_tokens": MAX_TOKENS, "thinking": {"type": "disabled"}}


def ask(cluster, i, on_token=None):
    return api.streamed_message(cluster.http_port, neighbour(i), on_token=on_token)


def reader_of_poison(cluster, seen):
    """The worker that reads the long prompt, once it is one whose group has not been killed for it yet."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for i, worker in enumerate(cluster.workers):
            try:
                queue = cluster.worker_metric(i, QUEUE)
            except OSError:
                continue  # its group is being brought back
            shards = worker.descendants("longshelf-shard")
            if queue > 5_000 and shards and shards[0] not in seen:
                return shards[0]
        time.sleep(0.01)
    cluster.fail("nobody reads the long prompt")


def send_poison(cluster):
    body = {"messages": [{"role": "user", "content": (SECRET + " ") * 40_000}], "max_tokens": 5}
    return api.post(cluster.http_port, "/v1/chat/completions", body, {"x-request-id": POISON_ID})


with Cluster(bin_dir, model, N_WORKERS, router_flags=["--keep-alive-interval=10s"]) as cluster, \
        concurrent.futures.ThreadPoolExecutor(N_NEIGHBOURS + 1) as pool:
    expected = [ask(cluster, i) for i in range(N_NEIGHBOURS)]
    begun = threading.Semaphore(0)
    got = [pool.submit(ask, cluster, i, begun.release) for i in range(N_NEIGHBOURS)]
    for _ in range(N_NEIGHBOURS):
        assert begun.acquire(timeout=60)
    poison = pool.submit(send_poison, cluster)
    killed = []
    for _ in range(2):
        killed.append(reader_of_poison(cluster, killed))
        os.kill(killed[-1], signal.SIGKILL)
    status, headers, answer = poison.result(60)
    assert status == 422, (status, answer)
    error = answer["error"]
    assert error["code"] == "request_kills_workers" and error["type"] == "request_kills_workers_error", error
    assert headers["Retry-After"] is None and headers["x-request-id"] == POISON_ID, headers
    for i, future in enumerate(got):
        message, finish, _ = future.result(120)
        assert (message, finish) == expected[i][:2], f"neighbour {i}: expected {expected[i]}, got {message}, {finish}"
    assert cluster.metric("longshelf_router_requests_blamed_total") == 1
    assert cluster.metric("longshelf_router_worker_deaths_total") == 2
    moved = cluster.metric("longshelf_router_resumes_total")
    with open(cluster.router.log_path) as log:
        text = log.read()
    assert f"request {POISON_ID}-0 is refused: 2 worker(s) in a row died under it" in text, text
    assert SECRET not in text
    cluster.wait_until(lambda: cluster.metric("longshelf_router_worker_up{") == N_WORKERS, "a group did not come back")
    ask(cluster, 0)
    print(f"refused after 2 groups; {N_NEIGHBOURS} neighbours whole, {moved:.0f} moves")
