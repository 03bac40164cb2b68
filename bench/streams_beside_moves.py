#!/usr/bin/env python3
"""How long do streams wait for their next token while a group's shards fetch experts, to lie where they spread the work?

    bench/streams_beside_moves.py [--build build/release] [--model models/demo] [--streams 8] [--moves 3]

Starts a cluster with one worker of two shards and --expert-placement balanced, and lets streams run until experts were
placed anew so many times. CSV on standard output: inter-token times of all streams, between placements and from the
moment that experts are fetched until all shards switch to them."""
import argparse
import os
import sys
import threading
import time

from streams_beside_prompt import ROOT, Stream, report

sys.path.insert(0, str(ROOT / "tests" / "clients"))
from cluster import Cluster  # noqa: E402

FETCHING = "this shard fetches"
SWITCHED = "experts lie as planned from this step on"
POLL_S = 0.01


class Watch(threading.Thread):
    """Notes when the worker's log says that experts are fetched, and that shards have switched."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.spans, self.began, self.stopping = path, [], None, False

    def run(self):
        with open(self.path, encoding="utf-8", errors="replace") as log:
            log.seek(0, os.SEEK_END)
            while not self.stopping:
                line = log.readline()
                if not line:
                    time.sleep(POLL_S)
                elif FETCHING in line:
                    self.began = self.began or time.monotonic()
                elif SWITCHED in line and self.began:
                    self.spans.append((self.began, time.monotonic()))
                    print(f"{line.strip()} ({self.spans[-1][1] - self.began:.1f} s)", file=sys.stderr, flush=True)
                    self.began = None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--moves", type=int, default=3)
    parser.add_argument("--timeout", type=int, default=480, help="seconds until it is given up")
    args = parser.parse_args()
    flags = ("--threads=1", "--kv-memory=512MiB", "--expert-placement=balanced", "--drafts=none")
    with Cluster(f"{args.build}/bin", args.model, shards=2, kvstore=False, worker_flags=flags) as cluster:
        watch = Watch(cluster.workers[0].log_path)
        watch.start()
        streams = [Stream(cluster.http_port, i) for i in range(args.streams)]
        for stream in streams:
            stream.start()
        give_up = time.monotonic() + args.timeout
        while len(watch.spans) < args.moves and time.monotonic() < give_up:
            time.sleep(1)
        watch.stopping = True
        for stream in streams:
            stream.stopping = True
        print("streams,gaps,p50_ms,p99_ms,max_ms")
        # A token belongs to a span when any of the time before it does.
        during = lambda when, seconds: any(a <= when and when - seconds <= b for a, b in watch.spans)  # noqa: E731
        gaps = [gap for stream in streams for gap in stream.gaps]
        beside = [seconds for when, seconds in gaps if during(when, seconds)]
        if not beside:
            sys.exit("no experts were moved: nothing to compare")
        alone = report("between placements", [seconds for when, seconds in gaps if not during(when, seconds)])
        print(f"ratio of 99th percentiles: {report('while experts move', beside) / alone:.2f}", flush=True)


if __name__ == "__main__":
    main()
