"""More sessions than a worker's memory holds: those that are idle leave it for the KV store by themselves, and each is
found again, with the same answer. Arguments: binaries, model directory."""

import os
import sys

import api
from cluster import Cluster
from long_text import LongText

BIN, MODEL = sys.argv[1], sys.argv[2]
N_SESSIONS, N_TOKENS = 8, 6_000


def answer(cluster, prompt):
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "cache_report": True}
    status, _, reply = api.post(cluster.http_port, "/v1/completions", body)
    assert status == 200, reply
    return reply["choices"][0]["text"], reply["usage"]["prompt_tokens_details"]


text = LongText(MODEL)
prompts = [text.of(N_TOKENS, seed=100 + i) for i in range(N_SESSIONS)]
# Room for two and a half of them.
with Cluster(BIN, MODEL, worker_flags=[f"--threads={os.cpu_count()}", "--kv-memory=4MiB"]) as cluster:
    first = [answer(cluster, prompt)[0] for prompt in prompts]
    n_blocks = cluster.worker_metric(0, "longshelf_worker_kv_blocks ")
    assert 0 < n_blocks * 256 < N_SESSIONS / 2 * N_TOKENS, f"{n_blocks} blocks hold them all"
    n_from_store = 0
    for prompt, before in zip(prompts, first):
        again, details = answer(cluster, prompt)
        assert again == before, (again, before)
        assert details["cached_tokens"] >= 0.9 * N_TOKENS, details
        n_from_store += details["store_tokens"]
    print(f"{n_from_store} of {N_SESSIONS * N_TOKENS} tokens came back from the store")
    assert n_from_store >= 0.5 * N_SESSIONS * N_TOKENS
