"""Answers are the same whoever guesses tokens ahead: 32 at once, greedy and sampled, with penalties and stop strings.

Usage: drafts_test.py BINARIES MODEL [--context N] [--threads N]
With --context, every prompt has about so many tokens; 70000 is past everything that a window or a top-k can hold."""

import argparse
import concurrent.futures

import api
from cluster import Cluster
from long_text import LongText

N = 32
QUESTIONS = ["Count from 1 to 30.", "Tell me a long story.", "Write the letters of the alphabet, twice.",
             "Repeat: one two three one two three one two three."]

parser = argparse.ArgumentParser()
parser.add_argument("bin_dir")
parser.add_argument("model")
parser.add_argument("--context", type=int, default=0)
parser.add_argument("--threads", type=int, default=1)
args = parser.parse_args()
text = LongText(args.model)


def body(i):
    content = QUESTIONS[i % len(QUESTIONS)]
    if args.context:
        content = text.of(args.context, seed=i % 2) + "\n" + content  # two texts: the rest comes from the cache
    out = {"messages": [{"role": "user", "content": content}], "seed": 500 + i, "max_tokens": 100,
           "temperature": i // 4 % 2, "thinking": {"type": "disabled"}}
    if i % 3 == 0:
        out.update(presence_penalty=0.5, frequency_penalty=0.3)
    if i % 5 == 0:
        out["stop"] = [", 9", "time"]
    return out


def answers(drafts):
    flags = (f"--drafts={drafts}", f"--threads={args.threads}", "--sequences=32", "--kv-memory=1GiB")
    with Cluster(args.bin_dir, args.model, 1, worker_flags=flags) as cluster:
        ask = lambda i: api.streamed_message(cluster.http_port, body(i))  # noqa: E731
        if args.context:
            for i in range(2):
                ask(i)  # each text is read once
        with concurrent.futures.ThreadPoolExecutor(N) as pool:
            return list(pool.map(ask, range(N)))


plain = answers("none")
for drafts in ("lookup", "model", "auto"):
    accepted = rejected = 0
    for i, (expected, got) in enumerate(zip(plain, answers(drafts))):
        assert expected[:2] == got[:2], f"{drafts}, answer {i}: {expected} became {got}"
        details = got[2]["completion_tokens_details"]
        accepted += details["accepted_prediction_tokens"]
        rejected += details["rejected_prediction_tokens"]
        assert got[2]["completion_tokens"] == expected[2]["completion_tokens"]
    print(f"{drafts}: {N} answers equal; {accepted} guesses accepted, {rejected} rejected", flush=True)
    assert accepted > 0, "nothing was guessed: the test says nothing"
assert not any(u["completion_tokens_details"]["accepted_prediction_tokens"] for _, _, u in plain)
