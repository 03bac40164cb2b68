#!/usr/bin/env python3
"""How long do streams wait for their next token while somebody else's long prompt is read?

    bench/streams_beside_prompt.py [--build build/release] [--model models/demo] [--prompt 100000] [--streams 8]
                                   [--threads 2] [--budget-ms 200]

Starts a cluster, lets the streams run alone, then sends the prompt beside them. CSV on standard output: inter-token
times of all streams, before and beside; exit code 1 when the 99th percentile beside is over twice the step budget."""
import argparse
import pathlib
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
import api  # noqa: E402
from cluster import Cluster  # noqa: E402
from long_text import LongText  # noqa: E402

ALONE_S = 5


class Stream(threading.Thread):
    """Asks for one answer after the other until it is told to stop; keeps the time of every token."""

    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.port, self.number = port, number
        self.gaps = []  # (when, seconds since the token before)
        self.stopping = False

    def run(self):
        seed = self.number
        while not self.stopping:
            seed += 1000
            body = {"messages": [{"role": "user", "content": "Tell me a long story."}], "seed": seed, "max_tokens": 800,
                    "temperature": 1.0, "thinking": {"type": "disabled"}}
            last = None
            for event in api.events(self.port, "/v1/chat/completions", body, timeout=600):
                if any(choice["delta"].get("content") for choice in event["choices"]):
                    now = time.monotonic()
                    if last is not None:
                        self.gaps.append((now, now - last))
                    last = now
                if self.stopping:
                    return


def report(name, gaps):
    gaps = sorted(gaps)
    at = lambda share: gaps[min(len(gaps) - 1, int(share * len(gaps)))] * 1e3  # noqa: E731
    print(f"{name},{len(gaps)},{at(0.5):.1f},{at(0.99):.1f},{gaps[-1] * 1e3:.1f}", flush=True)
    return at(0.99)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"))
    parser.add_argument("--prompt", type=int, default=100000)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget-ms", type=int, default=200)
    args = parser.parse_args()
    flags = (f"--threads={args.threads}", f"--step-budget={args.budget_ms}ms", "--kv-memory=1GiB")
    with Cluster(f"{args.build}/bin", args.model, 1, worker_flags=flags) as cluster:
        text = LongText(args.model).of(args.prompt, seed=1)
        streams = [Stream(cluster.http_port, i) for i in range(args.streams)]
        for stream in streams:
            stream.start()
        time.sleep(ALONE_S)  # the quantity measured: this long alone
        begun = time.monotonic()
        api.post(cluster.http_port, "/v1/completions", {"prompt": text, "max_tokens": 1}, timeout=3600)
        ended = time.monotonic()
        for stream in streams:
            stream.stopping = True
        print("streams,gaps,p50_ms,p99_ms,max_ms")
        gaps = [gap for stream in streams for gap in stream.gaps]
        report("alone", [seconds for when, seconds in gaps if when < begun])
        p99 = report("beside the prompt", [seconds for when, seconds in gaps if begun <= when - seconds and when <= ended])
        print(f"the prompt took {ended - begun:.1f} s", file=sys.stderr)
        return 0 if p99 <= 2 * args.budget_ms else 1


if __name__ == "__main__":
    sys.exit(main())
