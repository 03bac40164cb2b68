"""Every greedy completion of the demo model comes out of the cluster with the reference's text: streamed and not, one
at a time and sixteen at once. Arguments: binaries, model directory, number of workers, shards per worker."""

import concurrent.futures
import sys

import api
import greedy
from cluster import Cluster

bin_dir, model, n_workers, shards = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cases = greedy.load(model)


def differences(port, case, streamed):
    call = api.streamed_message if streamed else api.whole_message
    message, finish, usage = call(port, greedy.request_of(case))
    got, expected = greedy.seen(message, finish), greedy.expected_of(case)
    found = [] if got == expected else [f"{case['messages'][-1]['content']!r}: expected {expected}, got {got}"]
    if usage["prompt_tokens"] != len(case["prompt_ids"]):
        found.append(f"prompt tokens {usage['prompt_tokens']}, the reference has {len(case['prompt_ids'])}")
    if usage["completion_tokens"] != len(case["completion_ids"]):
        found.append(f"completion tokens {usage['completion_tokens']}, the reference has {len(case['completion_ids'])}")
    if usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] != usage["prompt_tokens"]:
        found.append(f"usage does not add up: {usage}")
    return found


failures = []
with Cluster(bin_dir, model, n_workers, shards) as cluster:
    for at_once in (1, 16):
        for streamed in (False, True):
            with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
                results = list(pool.map(lambda case: differences(cluster.http_port, case, streamed), cases))
            wrong = [line for result in results for line in result]
            print(f"{len(cases)} cases, {at_once} at once, {'streamed' if streamed else 'whole'}: {len(wrong)} wrong",
                  flush=True)
            failures += wrong
for line in failures[:10]:
    print(line)
sys.exit(1 if failures or not cases else 0)
