#!/usr/bin/env python3
"""What do large request bodies cost everybody else, and how much memory does the router keep of them?

    bench/large_bodies.py [--build build/release] [--model models/demo] [--prompts 8] [--bodies 200] [--threads 2]

First ordinary requests alone and beside prompts of 15 MB of random letters, all at once: none of these fits the context.
Then bodies of 16 MiB less one byte, all at once. CSV on standard output. Exit code 1 when an ordinary request took over
half a second longer beside them than alone, when the router grew by more than its --bodies-max, or when it kept more
than 100 MB."""
import argparse
import collections
import http.client
import json
import pathlib
import random
import string
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
from cluster import Cluster  # noqa: E402

ALONE_S = 5
SETTLE_S = 3
BODIES_MAX_MB = 1074  # the default
KEPT_MAX_MB = 100


def post(port, body, timeout=600):
    """The status; "reset" when there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        try:
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent: the answer is there
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return "reset"
    finally:
        connection.close()


def all_at_once(n, port, body):
    """How often each status came, and how long it took."""
    statuses = collections.Counter()

    def one():
        statuses[post(port, body)] += 1

    begun = time.monotonic()
    threads = [threading.Thread(target=one) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return dict(statuses), time.monotonic() - begun


class Ordinary(threading.Thread):
    """Asks for one token after the other; keeps how long each took."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.times, self.stopping = port, [], False

    def run(self):
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 1})
        while not self.stopping:
            begun = time.monotonic()
            status = post(self.port, body)
            self.times.append((time.monotonic() - begun, status))
            time.sleep(0.02)  # a client's own pace

    def stop(self):
        self.stopping = True
        self.join()
        times = sorted(seconds for seconds, _ in self.times)
        refused = sum(1 for _, status in self.times if status != 200)
        return times[len(times) // 2], times[-1], len(times), refused


class Memory(threading.Thread):
    """The router's resident memory, in MB."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.stopping = pid, 0, False

    def now(self):
        text = pathlib.Path(f"/proc/{self.pid}/statm").read_text()
        return int(text.split()[1]) * 4096 / 1e6

    def run(self):
        while not self.stopping:
            self.peak = max(self.peak, self.now())
            time.sleep(0.02)  # the pace of the measurement

    def stop(self):
        self.stopping = True
        self.join()
        return self.peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--bodies", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="that prepare requests")
    parser.add_argument("--context", type=int, default=1 << 20, help="of the worker")
    args = parser.parse_args()
    letters = "".join(random.Random(1).choices(string.ascii_lowercase, k=15_000_000))
    prompt = json.dumps({"prompt": letters, "max_tokens": 1}).encode()
    whole = prompt[:-1] + b" " * ((16 << 20) - 1 - len(prompt)) + b"}"
    with Cluster(f"{args.build}/bin", args.model, 1, router_flags=(f"--prepare-threads={args.threads}",),
                 worker_flags=("--threads=1", f"--context={args.context}")) as cluster:
        print("what,n,p50_ms,max_ms,statuses")
        ordinary = Ordinary(cluster.http_port)
        ordinary.start()
        time.sleep(ALONE_S)  # the quantity measured: this long alone
        p50, alone, n, refused = ordinary.stop()
        print(f"alone,{n},{p50 * 1e3:.0f},{alone * 1e3:.0f},{refused} refused", flush=True)
        ordinary = Ordinary(cluster.http_port)
        ordinary.start()
        statuses, seconds = all_at_once(args.prompts, cluster.http_port, prompt)
        p50, beside, n, refused = ordinary.stop()
        print(f"beside,{n},{p50 * 1e3:.0f},{beside * 1e3:.0f},{refused} refused", flush=True)
        print(f"prompts,{args.prompts},,{seconds * 1e3:.0f},{statuses}", flush=True)
        memory = Memory(cluster.router.popen.pid)
        before = memory.now()
        memory.start()
        statuses, seconds = all_at_once(args.bodies, cluster.http_port, whole)
        time.sleep(SETTLE_S)
        after, peak = memory.now(), memory.stop()
        print(f"bodies,{args.bodies},,{seconds * 1e3:.0f},{statuses}")
        print("memory_mb,before,peak,after")
        print(f"router,{before:.0f},{peak:.0f},{after:.0f}", flush=True)
        return 0 if beside < alone + 0.5 and peak - before < BODIES_MAX_MB and after - before < KEPT_MAX_MB else 1


if __name__ == "__main__":
    sys.exit(main())
