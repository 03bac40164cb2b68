"""Answers are the same whoever guesses tokens ahead: 32 at once, greedy and sampled, with penalties and stop strings;
also when they are moved out of their slots and back, and when a worker dies under them.

Usage: drafts_test.py BINARIES MODEL [--context N] [--threads N]
With --context, every prompt has about so many tokens; 70000 is past everything that a window or a top-k can hold."""

import argparse
import concurrent.futures
import threading

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


def is_flex(i):
    return i % 3 == 0


def body(i):
    content = QUESTIONS[i % len(QUESTIONS)]
    if is_flex(i):
        content = text.of(1000, seed=100 + i) + "\n" + content  # they take a while: the others find all slots taken
    if args.context:
        content = text.of(args.context, seed=i % 2) + "\n" + content  # two texts: the rest comes from the cache
    out = {"messages": [{"role": "user", "content": content}], "seed": 500 + i, "max_tokens": 100,
           "temperature": i // 4 % 2, "thinking": {"type": "disabled"},
           "service_tier": "flex" if is_flex(i) else "priority"}
    if i % 3 == 0:
        out.update(presence_penalty=0.5, frequency_penalty=0.3)
    if i % 5 == 0:
        out["stop"] = [", 9", "time"]
    return out


def answers(drafts, slots=N, dies=False):
    """The flex ones come first, more of them than there are slots when these are few: then the others move them out.
    With `dies`, one of two workers is killed amid its answers."""
    flags = (f"--drafts={drafts}", f"--threads={args.threads}", f"--sequences={slots}", "--kv-memory=1GiB")
    patient = ("--wait-max=1h",)  # nobody is refused for the wait
    with Cluster(args.bin_dir, args.model, 2 if dies else 1, worker_flags=flags, router_flags=patient) as cluster:
        n_left = threading.Semaphore(N * 10)  # tokens until it dies

        flex_runs = threading.Event()

        def on_token():
            flex_runs.set()
            if dies and not n_left.acquire(blocking=False) and cluster.workers[0].alive():
                cluster.workers[0].kill()

        def ask(i):
            assert is_flex(i) or flex_runs.wait(60), "the first ones have no token yet"
            return api.streamed_message(cluster.http_port, body(i), on_token=on_token)

        if args.context:
            for i in range(2):
                ask(i)  # each text is read once
        with concurrent.futures.ThreadPoolExecutor(N) as pool:
            out = list(pool.map(ask, range(N)))
        if dies:
            assert cluster.metric("longshelf_router_resumes_total") > 0, "nobody was moved to the other worker"
        else:
            n_preempted = cluster.worker_metric(0, "longshelf_worker_preempted_total")
            assert (n_preempted > 0) == (slots < N), f"{n_preempted} preempted with {slots} slots"
        return out


plain = answers("none")
for how in ({"drafts": "lookup"}, {"drafts": "model"}, {"drafts": "auto"}, {"drafts": "auto", "slots": 6},
            {"drafts": "auto", "dies": True}):
    accepted = rejected = 0
    for i, (expected, got) in enumerate(zip(plain, answers(**how))):
        assert expected[:2] == got[:2], f"{how}, answer {i}: {expected} became {got}"
        details = got[2]["completion_tokens_details"]
        accepted += details["accepted_prediction_tokens"]
        rejected += details["rejected_prediction_tokens"]
        assert got[2]["completion_tokens"] == expected[2]["completion_tokens"]
    print(f"{how}: {N} answers equal; {accepted} guesses accepted, {rejected} rejected", flush=True)
    assert accepted > 0, "nothing was guessed: the test says nothing"
assert not any(u["completion_tokens_details"]["accepted_prediction_tokens"] for _, _, u in plain)
