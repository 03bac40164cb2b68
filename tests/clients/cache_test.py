"""A second request that shares a long prefix with an earlier one reuses it, and usage says so; another tenant's does
not. Arguments: binaries, model directory."""

import os
import sys
import tempfile

import api
from cluster import Cluster

bin_dir, model = sys.argv[1], sys.argv[2]
catalogue = "\n".join(f"package-{i} (libs): tool number {i} for testing" for i in range(80))


def body(question, **fields):
    return {"messages": [{"role": "system", "content": catalogue}, {"role": "user", "content": question}],
            "temperature": 0, "max_tokens": 8, "thinking": {"type": "disabled"}, **fields}


def hits(cluster, key, question, **fields):
    message, _, usage = api.whole_message(cluster.http_port, body(question, **fields),
                                          {"Authorization": f"Bearer {key}"})
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"], usage
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_cache_hit_tokens"], usage
    return usage["prompt_cache_hit_tokens"], usage["prompt_tokens"], message["content"]


with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
    keys.write("alice:sk-alice\nbob:sk-bob\n")
    keys.flush()
    with Cluster(bin_dir, model, n_workers=2, router_flags=[f"--api-keys={keys.name}"]) as cluster:
        status, headers, reply = api.post(cluster.http_port, "/v1/chat/completions", body("Who?"))
        assert status == 401 and reply["error"]["code"] == "invalid_api_key", reply
        assert headers["x-request-id"]

        cold, n_prompt, first = hits(cluster, "sk-alice", "What is package-7?")
        assert cold == 0, cold
        assert n_prompt > 600, "the prefix must be long for this test to say anything"
        warm, _, again = hits(cluster, "sk-alice", "What is package-7?")
        assert warm >= (n_prompt - 1) // 256 * 256, (warm, n_prompt)
        assert again == first, "a cache hit must not change the answer"
        shared, _, _ = hits(cluster, "sk-alice", "What is package-55, please?")
        assert shared > 256, shared
        other_tenant, _, theirs = hits(cluster, "sk-bob", "What is package-7?")
        assert other_tenant == 0, f"bob saw alice's cache: {other_tenant}"
        assert theirs == first
        other_user, _, _ = hits(cluster, "sk-alice", "What is package-7?", user_id="user-2")
        assert other_user == 0, f"user_id does not isolate: {other_user}"
        assert cluster.metric('longshelf_router_picks_total{reason="prefix"}') >= 2
        print(f"hits: cold {cold}, warm {warm}, shared prefix {shared} of {n_prompt}; other tenant {other_tenant}")
        codes = cluster.stop()
assert codes["router"] == 0, codes
