"""Long prompts through a real cluster, as text over HTTP and as token ids over gRPC: each gets its first token, or an
error with a type, before its deadline, and is never silent on the way.

Usage: long_prompts.py BINARIES MODEL CACHE [--sizes 63K,64K,...] [--doors http,grpc] [--threads N] [--deadline S]
CACHE keeps the virtual environment of the gRPC client. CSV on standard output; exit code 1 when a promise is broken.
All sizes take an hour of processor time; ctest runs the shorter ones."""

import argparse
import http.client
import json
import os
import random
import sys
import time

import fetched
from cluster import Cluster
from long_text import LongText

SIZES = "63K,64K,65K,128K,256K,512K,1048572,1M"  # the last one fills the context, so it is refused
KEEP_ALIVE_S = 2
SILENCE_MAX_S = KEEP_ALIVE_S + 8  # on a machine that has other work
REPORTS_PER_S_MAX = 5
MAX_TOKENS = 4


def tokens_of(size):
    return int(size.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)


class Sample:
    """One request: when it was heard of, what it reported, how it ended."""

    def __init__(self, door, n_prompt):
        self.door, self.n_prompt = door, n_prompt
        self.begun = self.last = time.monotonic()
        self.silence = 0.0
        self.first_token = None
        self.progress = []
        self.end = None
        self.n_counted = None  # prompt tokens, as the server counts them

    def hear(self):
        now = time.monotonic()
        self.silence, self.last = max(self.silence, now - self.last), now

    def token(self):
        self.first_token = self.first_token or time.monotonic() - self.begun

    def line(self):
        first = "" if self.first_token is None else f"{self.first_token:.2f}"
        return (f"{self.door},{self.n_prompt},{first},{len(self.progress)},{self.silence:.2f},"
                f"{time.monotonic() - self.begun:.2f},{self.end}")

    def check(self, deadline_s):
        seconds = self.last - self.begun
        assert self.end, "neither an answer nor an error"
        assert self.first_token is not None or self.end.startswith("error:"), self.end
        assert seconds <= deadline_s + SILENCE_MAX_S, f"{seconds:.0f} s, the deadline was {deadline_s} s"
        assert self.silence <= SILENCE_MAX_S, f"{self.silence:.1f} s of silence"
        done = [n for n, _ in self.progress]
        assert done == sorted(done), f"progress went back: {done}"
        assert len(done) <= REPORTS_PER_S_MAX * seconds + 2, f"{len(done)} reports in {seconds:.1f} s"
        assert all(0 <= n <= total for n, total in self.progress), self.progress
        if self.n_counted is not None:
            assert self.n_counted == self.n_prompt, (self.n_counted, self.n_prompt)
            assert all(total == self.n_prompt for n, total in self.progress if n > 0), self.progress[-1]
            assert done, "nothing was said while the prompt was read"


def ask_http(cluster, text, n_prompt, deadline_s):
    sample = Sample("http", n_prompt)
    body = json.dumps({"prompt": text.of(n_prompt, seed=n_prompt), "stream": True, "max_tokens": MAX_TOKENS, "temperature": 0,
                       "stream_options": {"include_usage": True}, "user_id": "http"})
    connection = http.client.HTTPConnection("127.0.0.1", cluster.http_port, timeout=SILENCE_MAX_S)
    sample.begun = sample.last = time.monotonic()
    try:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        sample.hear()
        if reply.status != 200:
            sample.end = f"error: {reply.status} {json.loads(reply.read())['error']['message']}"
            return sample
        while not sample.end:
            line = reply.readline().decode().strip()
            sample.hear()
            if line.startswith(": prefill "):
                sample.progress.append(tuple(map(int, line[len(": prefill "):].split("/"))))
            elif line == "data: [DONE]":
                sample.end = "done"
            elif line.startswith("data: "):
                event = json.loads(line[len("data: "):])
                if "error" in event:
                    sample.end = f"error: {event['error']['message']}"
                    return sample
                sample.n_counted = (event.get("usage") or {}).get("prompt_tokens", sample.n_counted)
                if event["choices"] and event["choices"][0]["text"]:
                    sample.token()
            if time.monotonic() - sample.begun > deadline_s:
                sample.end = f"error: deadline of the client, {sample.progress[-1:]} read"
    except (TimeoutError, OSError) as error:
        sample.end = f"broken: {error!r}"
    finally:
        connection.close()
    return sample


class GrpcClient:
    def __init__(self, port):
        import grpc
        from google.protobuf.descriptor_pool import DescriptorPool
        from google.protobuf.message_factory import GetMessageClass
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
        self.RpcError = grpc.RpcError
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("longshelf.v1.Inference").methods_by_name["Generate"]
        self.Request = GetMessageClass(method.input_type)
        reply = GetMessageClass(method.output_type)
        self.generate = channel.unary_stream("/longshelf.v1.Inference/Generate", self.Request.SerializeToString,
                                             reply.FromString)

    def ask(self, n_prompt, deadline_s):
        # Other tokens than over HTTP: nothing may come from the cache.
        ids = random.Random(n_prompt).choices(range(2, 4000), k=n_prompt)
        request = self.Request(tokens={"ids": ids}, options={"temperature": 0, "max_tokens": MAX_TOKENS})
        sample = Sample("grpc", n_prompt)
        try:
            for reply in self.generate(request, timeout=deadline_s):
                sample.hear()
                if reply.HasField("progress"):
                    sample.progress.append((reply.progress.n_done, reply.progress.n_total))
                if reply.tokens:
                    sample.token()
                if reply.HasField("usage"):
                    sample.n_counted = reply.usage.prompt_tokens
            sample.end = "done"
        except self.RpcError as error:
            sample.hear()
            sample.end = f"error: {error.code().name} {error.details()}"
        return sample


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries")
    parser.add_argument("model")
    parser.add_argument("cache")
    parser.add_argument("--sizes", default=SIZES, help="prompt tokens: 63K, 1M")
    parser.add_argument("--doors", default="http,grpc")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--deadline", type=float, default=7200, help="seconds for each request")
    args = parser.parse_args()
    doors = args.doors.split(",")
    if "grpc" in doors:
        python = fetched.python(args.cache)
        if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(python))):
            os.execv(python, [python] + sys.argv)
    failed = False
    with Cluster(args.binaries, args.model, kvstore=False, worker_flags=[f"--threads={args.threads}"],
                 router_flags=[f"--keep-alive-interval={KEEP_ALIVE_S}s"]) as cluster:
        text = LongText(args.model)
        ask = {"http": lambda n: ask_http(cluster, text, n, args.deadline)}
        if "grpc" in doors:
            client = GrpcClient(cluster.grpc_port)
            ask["grpc"] = lambda n: client.ask(n, args.deadline)
        print("door,prompt_tokens,first_token_s,reports,longest_silence_s,all_s,end")
        for size in args.sizes.split(","):
            for door in doors:
                sample = ask[door](tokens_of(size))
                print(sample.line(), flush=True)
                try:
                    sample.check(args.deadline)
                except AssertionError as error:
                    print(f"{door} {size}: {error}", file=sys.stderr)
                    failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
