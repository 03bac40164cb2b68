"""A long session that was parked on disk outlives the sudden death of everything at once: worker, store and router are
killed and started again, and the same prompt is found. Arguments: binaries, model directory."""

import os
import sys

import api
from cluster import Cluster
from long_text import LongText

BIN, MODEL = sys.argv[1], sys.argv[2]
N_TOKENS = 20_000


def answer(cluster, prompt, **fields):
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "cache_report": True, **fields}
    status, _, reply = api.post(cluster.http_port, "/v1/completions", body)
    assert status == 200, reply
    return reply["choices"][0]["text"], reply["usage"]["prompt_tokens_details"], reply["usage"]["prompt_tokens"]


prompt = LongText(MODEL).of(N_TOKENS, seed=3)
with Cluster(BIN, MODEL, disk_size="1GiB", worker_flags=[f"--threads={os.cpu_count()}", "--kv-memory=512MiB"]) as cluster:
    text, details, n_prompt = answer(cluster, prompt, session="long")
    assert n_prompt == N_TOKENS and details["cached_tokens"] == 0, details
    status, _, parked = api.post(cluster.http_port, "/v1/sessions/long/park", {"retention_s": 3600, "durability": "disk"})
    assert status == 200 and parked["durability"] == "disk" and parked["kv"]["tokens"] >= N_TOKENS, parked
    everybody = [cluster.workers[0], cluster.kvstores[0], cluster.router]
    for process in everybody:
        process.kill()
    for process in everybody:
        process.start()
    cluster.wait_ready(1)
    again, details, _ = answer(cluster, prompt)
    print(f"{details['store_tokens']} of {n_prompt} tokens from the store's disk; the rest: {details['miss_reason']}")
    assert details["store_tokens"] >= 0.95 * n_prompt, details
    assert again == text, (again, text)
