#!/usr/bin/env python3
"""How long does a parked session take to go on, on a worker that never saw it, and what does the store keep of it?

    bench/long_sessions.py [--build build/release] [--model models/demo] [--tokens 100000,300000,1040000]
                           [--repetitions 5] [--threads 1] [--store-memory 64MiB] [--json FILE]

One session grows to each length. At each, its prompt is computed once and an answer begun and parked in the middle, in
memory. Then so many times: the worker that computed it answers again from its own memory, and a worker and a router
that have just been started resume the answer from the store. Every answer must be equal to the byte, at least 95 % of
the prompt must come from the store, and the worker may grow by what came and --store-memory. Before the very last time
the first worker and its router are killed. CSV on standard output, progress on standard error."""
import argparse
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "clients"))
import api  # noqa: E402
from cluster import Cluster  # noqa: E402
from long_text import LongText  # noqa: E402

HOUR_S = 3600
BLOCK_TOKENS, STAMP_BYTES = 256, 1048  # docs/kvstore.md
N_ANSWER, N_PARKED_CHUNKS = 256, 24
PROGRESS_S = 15
STORE_SHARE_MIN = 0.95
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def say(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def mib(size):
    """Of a size as flags have it."""
    for suffix, factor in (("GiB", 1024), ("MiB", 1)):
        if size.endswith(suffix):
            return int(size.removesuffix(suffix)) * factor
    raise ValueError(f"{size}: a number of MiB or GiB is wanted")


def cpu_s(*pids):
    """Processor seconds of these processes so far, all threads."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            total += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return total * TICK_S


def status_kib(pid, field):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


def worker_pids(cluster):
    worker = cluster.workers[0]
    return [worker.popen.pid] + worker.descendants("longshelf-shard")


class AnonymousMemory(threading.Thread):
    """The most anonymous memory that a worker's shard had, looked at every 10 ms."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.stopping = pid, threading.Event()
        self.first_kib = self.most_kib = status_kib(pid, "RssAnon")

    def run(self):
        while not self.stopping.wait(0.01):
            self.most_kib = max(self.most_kib, status_kib(self.pid, "RssAnon"))

    def grown_mib(self):
        self.stopping.set()
        self.join()
        return (max(self.most_kib, status_kib(self.pid, "RssAnon")) - self.first_kib) / 1024


class Answer:
    """One streamed answer: its text, when each piece of it came, usage, and processor time to the first token."""

    def __init__(self, cluster, path, body, parking=None, name=None):
        pids = worker_pids(cluster)
        store = cluster.store_pid
        cpu, store_cpu = cpu_s(*pids), cpu_s(store)
        self.begun = self.told = time.monotonic()
        self.text, self.ends, self.usage, self.finish = "", [], {}, None  # ends: (length so far, when, processor s)
        self.name = name
        self.events = api.events(cluster.http_port, path, body, timeout=HOUR_S, on_comment=self.progress)
        for event in self.events:
            assert "error" not in event, event
            self.usage = event.get("usage") or self.usage
            for choice in event["choices"]:
                self.finish = choice["finish_reason"] or self.finish
                if choice["text"]:
                    if not self.text:
                        self.first_s = time.monotonic() - self.begun
                        self.cpu_s, self.store_cpu_s = cpu_s(*pids) - cpu, cpu_s(store) - store_cpu
                    self.text += choice["text"]
                    self.ends.append((len(self.text), time.monotonic(), cpu_s(*pids)))
            if parking and len(self.ends) >= N_PARKED_CHUNKS and not parking.ident:
                parking.start()
        assert self.ends, "no token"

    def progress(self, comment):
        if self.name and time.monotonic() - self.told >= PROGRESS_S:
            self.told = time.monotonic()
            say(f"{self.name}: {comment.removeprefix(': ')} after {self.told - self.begun:.0f} s")

    def since(self, n_characters):
        """Seconds and processor seconds from the moment that so much was there to the end."""
        _, when, cpu = next(end for end in self.ends if end[0] >= n_characters)
        return self.ends[-1][1] - when, self.ends[-1][2] - cpu

    def details(self):
        return self.usage["prompt_tokens_details"]


class Parking(threading.Thread):
    """Parks a session while its answer is being read."""

    def __init__(self, cluster, session):
        super().__init__(daemon=True)
        self.cluster, self.session = cluster, session

    def run(self):
        begun = time.monotonic()
        self.reply = call(self.cluster, "POST", f"/v1/sessions/{self.session}/park",
                          {"retention_s": 24 * HOUR_S, "durability": "memory"})
        self.seconds = time.monotonic() - begun


def call(cluster, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", cluster.http_port, timeout=HOUR_S)
    try:
        connection.request(method, path, json.dumps(body or {}), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        parsed = json.loads(reply.read())
        assert reply.status == 200, (reply.status, parsed)
        return parsed
    finally:
        connection.close()


class Bench:
    def __init__(self, args):
        self.args = args
        self.bin = f"{args.build}/bin"
        self.text = LongText(args.model)
        self.document = self.text.of(max(args.tokens), seed=1).split(" ")[1:]
        plan = subprocess.run([f"{self.bin}/longshelf", "plan", "--json", f"--model={args.model}", "--context=256"],
                              check=True, capture_output=True, text=True)
        self.plan = json.loads(plan.stdout)["models"][0]
        self.results = []
        self.flags = [f"--threads={args.threads}", f"--kv-memory={args.kv_memory}", f"--store-memory={args.store_memory}"]
        self.first = Cluster(self.bin, args.model, worker_flags=self.flags, kvstore_flags=[f"--memory={args.memory}"])
        self.first.store_pid = self.first.kvstores[0].popen.pid
        self.store_rss_kib = status_kib(self.first.store_pid, "VmRSS")
        # The store's own address, as the first worker has it.
        self.store = next(flag for flag in self.first.workers[0].args if flag.startswith("--kvstore="))

    def fresh(self):
        """A worker and a router that know nothing, at the same store."""
        cluster = Cluster(self.bin, self.args.model, kvstore=False, worker_flags=self.flags + [self.store],
                          router_flags=[self.store])
        cluster.store_pid = self.first.store_pid
        return cluster

    def body(self, prompt, n_tokens):
        return {"prompt": prompt, "max_tokens": n_tokens, "temperature": 1, "seed": 7, "cache_report": True,
                "stream_options": {"include_usage": True}}

    def prompt(self, n_tokens):
        return "".join(" " + word for word in self.document[:n_tokens])

    def question(self, n_tokens, prompt):
        """The prompt with some words more, after which the model says as much as it may, and what it says."""
        for seed in range(100, 200):
            asked = prompt + self.text.of(40, seed)
            answer = Answer(self.first, "/v1/completions", self.body(asked, N_ANSWER))
            if answer.finish == "length":
                return asked, answer
        raise RuntimeError(f"every answer at {n_tokens} tokens is too short")

    def park(self, session, asked):
        parking = Parking(self.first, session)
        answer = Answer(self.first, "/v1/completions", {**self.body(asked, N_ANSWER), "session": session}, parking)
        parking.join()
        assert answer.finish == "parked", answer.finish
        say(f"parked in {parking.seconds:.2f} s:", json.dumps(parking.reply["kv"]))
        assert parking.reply["kv"], parking.reply
        return answer, parking

    def wait_until_stored(self):
        self.first.wait_until(lambda: self.first.worker_metric(0, "longshelf_worker_offload_queue_bytes") == 0,
                              "the session is not in the store")

    def memory(self, kv):
        """What the store uses, beside what the plan says of the blocks and the park of checkpoint and tail. Parked are
        the session's request and tokens too."""
        metrics = self.first.store_metrics(0)
        n_blocks = kv["tokens"] // BLOCK_TOKENS
        n_others = kv["bytes"] - n_blocks * (self.plan["block_bytes"] + STAMP_BYTES)
        return {"planned_bytes": n_blocks * self.plan["block_bytes"] + n_others, "parked_objects": kv["objects"],
                "parked_payload_bytes": kv["bytes"], "parked_bytes": metrics("longshelf_kvstore_parked_bytes"),
                "used_bytes": metrics("longshelf_kvstore_used_bytes"), "objects": metrics("longshelf_kvstore_objects "),
                "rss_growth_bytes": 1024 * (status_kib(self.first.store_pid, "VmRSS") - self.store_rss_kib)}

    def resume(self, session, parked, whole, last):
        again = Answer(self.first, "/v1/completions", whole.body)
        assert again.text == whole.text, "the same worker answers otherwise"
        if last:
            say("the worker and the router that began it are killed")
            self.first.workers[0].kill()
            self.first.router.kill()
        with self.fresh() as cluster:
            memory = AnonymousMemory(cluster.workers[0].descendants("longshelf-shard")[0])
            memory.start()
            resumed = Answer(cluster, f"/v1/sessions/{session}/resume", {})
            metrics = cluster.worker_metrics(0)
            kv_share = metrics("longshelf_worker_restored_bytes_total")
            grown_mib = memory.grown_mib()
        assert parked.text + resumed.text == whole.text, "a resumed session answers otherwise"
        n_store, n_prompt = resumed.details()["store_tokens"], resumed.usage["prompt_tokens"]
        assert n_store >= STORE_SHARE_MIN * n_prompt, f"only {n_store} of {n_prompt} tokens came from the store"
        # The session itself, and what is on its way.
        most_mib = kv_share / 2**20 + mib(self.args.store_memory)
        assert grown_mib <= most_mib, f"the worker grew by {grown_mib:.0f} MiB, more than {most_mib:.0f}"
        # Both over the same tokens: all after the first piece that came here.
        since = len(parked.text) + resumed.ends[0][0]
        (before_s, before_cpu_s), (after_s, after_cpu_s) = again.since(since), resumed.since(resumed.ends[0][0])
        n = whole.usage["completion_tokens"] * (len(whole.text) - since) / len(whole.text)
        row = {"first_token_s": resumed.first_s, "worker_cpu_s": resumed.cpu_s, "store_cpu_s": resumed.store_cpu_s,
               "store_tokens": n_store, "prompt_tokens": n_prompt,
               "decode_before": n / before_s, "decode_after": n / after_s, "decode_cpu_ms_before": 1e3 * before_cpu_s / n,
               "decode_cpu_ms_after": 1e3 * after_cpu_s / n, "restored_mib": kv_share / 2**20,
               "anonymous_growth_mib": grown_mib, "warm_first_token_s": again.first_s}
        say(f"first token after {resumed.first_s:.2f} s ({resumed.cpu_s:.2f} processor s), {row['store_tokens']} of "
            f"{row['prompt_tokens']} tokens from the store, decode {row['decode_after']:.1f} tokens/s after and "
            f"{row['decode_before']:.1f} before (processor ms a token {row['decode_cpu_ms_after']:.2f} and "
            f"{row['decode_cpu_ms_before']:.2f}); memory grew by {grown_mib:.0f} MiB, {row['restored_mib']:.0f} MiB came; "
            "equal to the byte")
        return row

    def at(self, n_tokens, is_last):
        prompt = self.prompt(n_tokens)
        cold = Answer(self.first, "/v1/completions", self.body(prompt, 1), name=f"{n_tokens} tokens")
        before = self.results[-1]["prefill"] if self.results else {"seconds": 0, "worker_cpu_s": 0}
        prefill = {"seconds": before["seconds"] + cold.first_s, "worker_cpu_s": before["worker_cpu_s"] + cold.cpu_s,
                   "computed_here": cold.details()["computed_tokens"]}
        say(f"{n_tokens} tokens computed in {prefill['seconds']:.1f} s, {prefill['worker_cpu_s']:.1f} processor s")
        asked, whole = self.question(n_tokens, prompt)
        whole.body = self.body(asked, N_ANSWER)
        self.wait_until_stored()
        session = f"long-{n_tokens}"
        parked, parking = self.park(session, asked)
        self.wait_until_stored()
        result = {"tokens": n_tokens, "prefill": prefill, "park_s": parking.seconds,
                  "memory": self.memory(parking.reply["kv"]), "runs": []}
        self.results.append(result)
        for i in range(self.args.repetitions):
            result["runs"].append(self.resume(session, parked, whole, is_last and i + 1 == self.args.repetitions))
            self.save()
        self.summarize(result)
        if not is_last:  # what is parked next is the next session and nothing else
            call(self.first, "DELETE", f"/v1/sessions/{session}")

    @staticmethod
    def summarize(result):
        median = {key: statistics.median(run[key] for run in result["runs"]) for key in result["runs"][0]}
        result["median"] = median
        result["ratios"] = {
            "first_token": median["first_token_s"] / result["prefill"]["seconds"],
            "worker_cpu": median["worker_cpu_s"] / result["prefill"]["worker_cpu_s"],
            "decode": statistics.median(run["decode_after"] / run["decode_before"] for run in result["runs"]),
            "decode_cpu": statistics.median(run["decode_cpu_ms_after"] / run["decode_cpu_ms_before"] for run in result["runs"]),
            "parked_memory": result["memory"]["parked_bytes"] / result["memory"]["planned_bytes"]}

    def save(self):
        if self.args.json:
            machine = {"cores": os.cpu_count(), "threads": self.args.threads, "store_memory": self.args.store_memory}
            with open(self.args.json, "w") as file:
                json.dump({"model": os.path.basename(self.args.model), **machine, "plan": self.plan["block_bytes"],
                           "sessions": self.results}, file, indent=1)
                file.write("\n")

    def run(self):
        print("tokens,prefill_s,prefill_cpu_s,first_token_s,first_token_ratio,worker_cpu_s,worker_cpu_ratio,store_tokens,"
              "prompt_tokens,decode_before,decode_after,decode_ratio,decode_cpu_ratio,anonymous_growth_mib,restored_mib,planned_bytes,"
              "parked_bytes,used_bytes,rss_growth_bytes", flush=True)
        for i, n_tokens in enumerate(self.args.tokens):
            self.at(n_tokens, i + 1 == len(self.args.tokens))
            self.save()
            result, median, ratios = (self.results[-1][key] if key else self.results[-1] for key in ("", "median", "ratios"))
            memory = result["memory"]
            print(f"{n_tokens},{result['prefill']['seconds']:.1f},{result['prefill']['worker_cpu_s']:.1f},"
                  f"{median['first_token_s']:.3f},{ratios['first_token']:.4f},{median['worker_cpu_s']:.2f},"
                  f"{ratios['worker_cpu']:.4f},{median['store_tokens']:.0f},{median['prompt_tokens']:.0f},"
                  f"{median['decode_before']:.1f},{median['decode_after']:.1f},{ratios['decode']:.3f},{ratios['decode_cpu']:.3f},"
                  f"{median['anonymous_growth_mib']:.0f},{median['restored_mib']:.0f},{memory['planned_bytes']},"
                  f"{memory['parked_bytes']:.0f},{memory['used_bytes']:.0f},{memory['rss_growth_bytes']}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--model", default=str(ROOT / "models" / "demo"))
    parser.add_argument("--tokens", default="100000,300000,1040000")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store-memory", default="64MiB", help="of each worker, for what is on its way")
    parser.add_argument("--kv-memory", default="640MiB", help="of each worker")
    parser.add_argument("--memory", default="2GiB", help="of the store")
    parser.add_argument("--json", help="file for the figures")
    args = parser.parse_args()
    args.tokens = sorted(int(n) for n in args.tokens.split(","))
    bench = Bench(args)
    try:
        bench.run()
    finally:
        bench.first.stop()


if __name__ == "__main__":
    main()
