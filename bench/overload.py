#!/usr/bin/env python3
"""What becomes of requests when more come than a cluster can answer, and of one tenant beside another's flood.

    bench/overload.py [--build build/release] [--model models/demo] [--workers 1] [--loads 1,3,10] [--addresses 1,8]
                      [--seconds 20] [--tokens 16] [--router-flags=...] [--worker-flags=...] [--neighbour]

Starts a cluster, measures how many requests a second it completes for clients that wait for their answers (its
capacity), and then sends multiples of that in an open loop (Poisson), from one or several source addresses of
127.0.0.0/8. CSV on standard output, one line per load: requests/s that had their first token within two seconds and
completed, as a share of the capacity; first tokens of answered requests; how the others were told, and how soon;
connections that ended without an answer; workers that the router declared gone; first tokens of single requests
before the load and five seconds after it; the longest wait for /livez meanwhile.

--neighbour instead: 100 clients of one tenant with prompts of 1,500 tokens without end, and beside them one request a
second of another tenant: its first tokens alone and beside them.

Client, router and workers share the machine. Load comes from processes of their own, one for each 300 requests/s."""
import argparse
import asyncio
import collections
import http.client
import json
import multiprocessing
import os
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
from cluster import Cluster  # noqa: E402

SOON_S = 2.0  # a first token that comes later is of no use to whoever waits for it
CLIENT_PATIENCE_S = 60
CAPACITY_CLIENTS = 32
CAPACITY_S = 8
CALM_AFTER_S = 5
PROBES = 5
REQUESTS_PER_PROCESS = 300
WORDS = "river stone green light under over paper walks slowly seven doors open early when nobody asks why".split()


def prompt_of(rng, n_words):
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


def request_of(rng, args, key="", n_words=None):
    body = json.dumps({"prompt": prompt_of(rng, n_words or args.words), "max_tokens": args.tokens, "stream": True,
                       "temperature": 1.0, "seed": rng.randrange(1 << 30)}).encode()
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    return (f"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n{auth}"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


async def ask(port, source, message):
    """(status, seconds to the first token or to the refusal, seconds to the end, Retry-After); status 0: no answer."""
    begun = time.monotonic()
    status, first, retry_after, text = 0, None, None, b""
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"retry-after:"):
                retry_after = float(line.split(b":")[1])
        if status != 200:
            return status, time.monotonic() - begun, time.monotonic() - begun, retry_after
        while True:
            chunk = await reader.read(65536)
            if not chunk:
                break
            text += chunk
            if first is None and b'"choices":[{' in text:
                first = time.monotonic() - begun
            if b'"error":' in chunk:
                return 599, time.monotonic() - begun, time.monotonic() - begun, None  # told inside a 200
        if b"[DONE]" not in text or first is None:
            status = 0
    except (OSError, asyncio.IncompleteReadError, ValueError):
        status = 0
    finally:
        if writer is not None:
            writer.close()
    return status, first, time.monotonic() - begun, retry_after


async def patiently(port, source, message):
    try:
        return await asyncio.wait_for(ask(port, source, message), CLIENT_PATIENCE_S)
    except asyncio.TimeoutError:
        return 1, None, CLIENT_PATIENCE_S, None


async def closed_loop(port, args, key, n_clients, seconds, n_words, results):
    rng = random.Random(os.getpid())
    end = time.monotonic() + seconds

    async def client():
        while time.monotonic() < end:
            reply = await patiently(port, "127.0.0.1", request_of(rng, args, key, n_words))
            results.append((time.monotonic(), reply))
            if reply[0] != 200:
                await asyncio.sleep(min(reply[3] or 0.1, max(0, end - time.monotonic())))

    await asyncio.gather(*(client() for _ in range(n_clients)))


async def open_loop(port, args, rate, seconds, sources, seed, results):
    rng = random.Random(seed)
    loop_end = time.monotonic() + seconds
    due = time.monotonic()
    tasks = []

    async def one(source, message):
        sent = time.monotonic()
        results.append((sent, await patiently(port, source, message)))

    while True:
        due += rng.expovariate(rate)
        if due > loop_end:
            break
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.ensure_future(one(rng.choice(sources), request_of(rng, args))))
    await asyncio.gather(*tasks)


def in_process(queue, coroutine, *arguments):
    results = []
    asyncio.run(coroutine(*arguments, results))
    queue.put(results)


def in_processes(jobs):
    """Runs every (coroutine function, arguments) in a process of its own; their results together."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=in_process, args=(queue, job, *arguments)) for job, arguments in jobs]
    for process in processes:
        process.start()
    out = [result for _ in processes for result in queue.get()]
    for process in processes:
        process.join()
    return out


def at(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def probe(port, args, n=PROBES, key=""):
    """Median seconds to the first token of single requests."""
    rng = random.Random(7)
    firsts = []
    for _ in range(n):
        reply = asyncio.run(patiently(port, "127.0.0.1", request_of(rng, args, key)))
        firsts.append(reply[1] if reply[0] == 200 else float("inf"))
    return statistics.median(firsts)


class Livez(threading.Thread):
    """Asks the router whether it lives, 20 times a second, and keeps the longest wait."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.longest, self.stopping = port, 0.0, threading.Event()

    def run(self):
        while not self.stopping.wait(0.05):
            begun = time.monotonic()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=("127.0.0.99", 0))
                connection.request("GET", "/livez")
                connection.getresponse().read()
                connection.close()
                self.longest = max(self.longest, time.monotonic() - begun)
            except OSError:
                self.longest = float("inf")


def measure_capacity(port, args):
    results = in_processes([(closed_loop, (port, args, "", CAPACITY_CLIENTS, CAPACITY_S, None))])
    times = [when for when, reply in results if reply[0] == 200]
    begun = min(times)
    n = len([t for t in times if t <= begun + CAPACITY_S - 1])
    return n / (CAPACITY_S - 1)


def run_load(cluster, args, load, n_addresses, capacity):
    port = cluster.http_port
    sources = [f"127.0.0.{i + 1}" for i in range(n_addresses)]
    rate = load * capacity
    n_processes = max(1, round(rate / REQUESTS_PER_PROCESS))
    before = probe(port, args)
    deaths, down = cluster.metric("longshelf_router_worker_deaths_total"), gone(cluster)
    livez = Livez(port)
    begun = time.monotonic()
    livez.start()
    results = in_processes([(open_loop, (port, args, rate / n_processes, args.seconds, sources, i))
                            for i in range(n_processes)])
    livez.stopping.set()
    lasted = time.monotonic() - begun
    time.sleep(max(0.0, args.seconds + CALM_AFTER_S - lasted))  # the quantity measured: how calm it is after this long
    after = probe(port, args)
    replies = [reply for _, reply in results]
    good = [r for r in replies if r[0] == 200 and r[1] <= SOON_S]
    firsts = [r[1] for r in replies if r[0] == 200]
    refused = [r for r in replies if r[0] in (429, 503)]
    others = collections.Counter(r[0] for r in replies if r[0] not in (200, 429, 503))
    if others:
        print(f"neither answered nor refused, by status (0: no answer, 1: none in {CLIENT_PATIENCE_S} s, 599: an error "
              f"inside a 200): {dict(others)}", file=sys.stderr)
    print(",".join([
        f"{load:g}", str(n_addresses), f"{capacity:.1f}", f"{len(replies) / args.seconds:.1f}",
        f"{len(good) / args.seconds:.1f}", f"{len(good) / args.seconds / min(capacity, len(replies) / args.seconds):.2f}",
        str(len(firsts)), f"{at(firsts, 0.5):.2f}", f"{at(firsts, 0.99):.2f}", str(len(refused)),
        f"{at([r[1] for r in refused], 0.5):.3f}", f"{at([r[1] for r in refused], 0.99):.3f}",
        str(len([r for r in refused if not r[3]])), str(len([r for r in replies if r[0] == 0])),
        str(len([r for r in replies if r[0] not in (0, 200, 429, 503)])),
        f"{cluster.metric('longshelf_router_worker_deaths_total') - deaths:g}", f"{gone(cluster) - down}",
        f"{before:.3f}", f"{after:.3f}", f"{livez.longest:.3f}"]), flush=True)


def gone(cluster):
    """How often the router's log says that a worker is gone."""
    with open(cluster.router.log_path) as log:
        return sum(" is gone" in line for line in log)


def loads(args):
    flags = {"router_flags": args.router_flags.split(), "worker_flags": args.worker_flags.split()}
    with Cluster(f"{args.build}/bin", args.model, args.workers, **flags) as cluster:
        probe(cluster.http_port, args)
        print("load,addresses,capacity,sent_per_s,good_per_s,good_share,answered,first_p50_s,first_p99_s,refused,"
              "refused_p50_s,refused_p99_s,without_retry_after,no_answer,other,deaths,gone,before_s,after_s,livez_max_s", flush=True)
        for n_addresses in map(int, args.addresses.split(",")):
            for load in map(float, args.loads.split(",")):
                run_load(cluster, args, load, n_addresses, measure_capacity(cluster.http_port, args))


def neighbour(args):
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
        keys.write("flood:sk-flood-0123456789abcdef\nquiet:sk-quiet-0123456789abcdef\n")
        keys.flush()
        os.chmod(keys.name, 0o600)
        flags = {"router_flags": [f"--api-keys={keys.name}"] + args.router_flags.split(),
                 "worker_flags": args.worker_flags.split()}
        with Cluster(f"{args.build}/bin", args.model, args.workers, **flags) as cluster:
            port = cluster.http_port
            quiet = "sk-quiet-0123456789abcdef"
            probe(port, args, key=quiet)
            alone = probe(port, args, 10, quiet)
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            flood = context.Process(target=in_process, args=(
                queue, closed_loop, port, args, "sk-flood-0123456789abcdef", 100, args.seconds, 1500))
            flood.start()
            firsts, refused, rng = [], 0, random.Random(3)
            end = time.monotonic() + args.seconds - 1
            time.sleep(3)  # the flood is in full swing then
            while time.monotonic() < end:
                begun = time.monotonic()
                reply = asyncio.run(patiently(port, "127.0.0.2", request_of(rng, args, quiet)))
                firsts.append(reply[1] if reply[0] == 200 else float("inf"))
                refused += reply[0] != 200
                time.sleep(max(0.0, begun + 1 - time.monotonic()))
            results = queue.get()
            flood.join()
            n_flood = sum(reply[0] == 200 and when <= end for when, reply in results)
            flood_firsts = [reply[1] for _, reply in results if reply[0] == 200]
            print("alone_p50_s,beside_p50_s,beside_max_s,refused,requests,flood_answered_per_s,flood_first_p50_s,"
                  "flood_refused")
            print(f"{alone:.3f},{statistics.median(firsts):.3f},{max(firsts):.3f},{refused},{len(firsts)},"
                  f"{n_flood / (args.seconds - 1):.1f},{at(flood_firsts, 0.5):.2f},"
                  f"{sum(reply[0] in (429, 503) for _, reply in results)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--loads", default="1,3,10")
    parser.add_argument("--addresses", default="1,8")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--router-flags", default="")
    parser.add_argument("--worker-flags", default="")
    parser.add_argument("--neighbour", action="store_true")
    args = parser.parse_args()
    neighbour(args) if args.neighbour else loads(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
