"""Sessions that are parked in the middle of an answer and go on elsewhere: the worker and the router that began it are
killed, and the client gets the rest, to the byte of what an unbroken answer is. Arguments: binaries, model directory."""

import http.client
import json
import re
import sys
import unittest
import urllib.request

import api
from cluster import Cluster

BIN, MODEL = sys.argv[1], sys.argv[2]
STORY = [{"role": "user", "content": "Tell me a long story."}]
SHORT = {"thinking": {"type": "disabled"}}


def request(port, method, path, body=None, headers=None):
    """(status, parsed JSON)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None,
                           {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


class Answer:
    """What a client has of an answer so far."""

    def __init__(self):
        self.reasoning, self.content, self.finish = "", "", None

    def add(self, events, until=None):
        for n, event in enumerate(events):
            assert "error" not in event, event
            for choice in event["choices"]:
                delta = choice.get("delta") or {"content": choice.get("text")}
                self.reasoning += delta.get("reasoning_content") or ""
                self.content += delta.get("content") or ""
                self.finish = choice["finish_reason"] or self.finish
            if n == until:
                return self
        return self

    def all(self):
        return self.reasoning, self.content, self.finish


class ParkingTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(BIN, MODEL, n_workers=2, n_stores=3)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.stop()

    def port(self):
        return self.cluster.http_port

    def begin(self, session, path, body, n_chunks):
        """Reads so many chunks, parks, and reads on to the end of the stream."""
        for _ in range(20):
            answer = Answer()
            events = api.events(self.port(), path, body, {"x-longshelf-session": session})
            answer.add(events, until=n_chunks)
            status, parked = request(self.port(), "POST", f"/v1/sessions/{session}/park", {"retention_s": 600})
            self.assertEqual(status, 200, parked)
            answer.add(events)
            # A short answer may be complete before the park comes: then once more.
            if parked["status"] == "unfinished":
                break
        self.assertEqual(answer.finish, "parked")
        return answer, parked

    def lose_everybody(self):
        """The worker with the most work, and the router. Both start again afterwards."""
        cluster = self.cluster
        done = [cluster.worker_metric(i, "longshelf_worker_tokens_generated_total") for i in range(2)]
        cluster.router.kill()
        cluster.workers[done.index(max(done))].kill()
        cluster.workers[done.index(max(done))].start()
        cluster.router.start()
        cluster.wait_ready(2)

    def resume(self, session, answer, path="/resume"):
        return answer.add(api.events(self.port(), f"/v1/sessions/{session}{path}", {}))

    def test_an_answer_goes_on_elsewhere_to_the_byte(self):
        cases = {
            "greedy": ("/v1/chat/completions", {"messages": STORY, "temperature": 0, "max_tokens": 400, **SHORT}),
            "seeded": ("/v1/chat/completions", {"messages": STORY, "temperature": 2, "seed": 1000, "max_tokens": 400, **SHORT}),
            "penalties": ("/v1/chat/completions", {"messages": STORY, "temperature": 2, "seed": 1002, "max_tokens": 300,
                                                   "presence_penalty": 0.5, "frequency_penalty": 0.3, **SHORT}),
            "thinking": ("/v1/chat/completions", {"messages": STORY, "temperature": 2, "seed": 7, "max_tokens": 300}),
            "text": ("/v1/completions", {"prompt": "Once upon a time", "temperature": 2, "seed": 3, "max_tokens": 300}),
        }
        whole = {name: Answer().add(api.events(self.port(), path, body)).all() for name, (path, body) in cases.items()}
        begun = {}
        for name, (path, body) in cases.items():
            self.assertGreater(len(whole[name][0] + whole[name][1]), 100, "too short to be parked in the middle")
            begun[name], parked = self.begin("middle-" + name, path, body, n_chunks=20)
            self.assertIsNotNone(parked["kv"], parked)
        self.lose_everybody()
        for name, answer in begun.items():
            self.assertEqual(self.resume("middle-" + name, answer).all(), whole[name], name)

    def test_stop_strings_that_straddle_the_cut_still_match(self):
        body = {"messages": STORY, "temperature": 2, "seed": 1000, "max_tokens": 400, **SHORT}
        text = Answer().add(api.events(self.port(), "/v1/chat/completions", body)).content
        body["stop"] = [text[150:170]]
        whole = Answer().add(api.events(self.port(), "/v1/chat/completions", body)).all()
        for n_chunks in range(0, 40, 13):
            answer, _ = self.begin(f"stop-{n_chunks}", "/v1/chat/completions", body, n_chunks)
            self.assertEqual(self.resume(f"stop-{n_chunks}", answer).all(), whole, n_chunks)

    def test_it_may_be_parked_again_and_again(self):
        body = {"messages": STORY, "temperature": 2, "seed": 1000, "max_tokens": 400, **SHORT}
        whole = Answer().add(api.events(self.port(), "/v1/chat/completions", body)).all()
        answer, _ = self.begin("again", "/v1/chat/completions", body, n_chunks=10)
        for _ in range(3):
            events = api.events(self.port(), "/v1/sessions/again/resume", {})
            answer.add(events, until=10)
            self.assertEqual(request(self.port(), "POST", "/v1/sessions/again/park", {"retention_s": 60})[0], 200)
            answer.add(events)
            self.assertEqual(answer.finish, "parked")
        self.assertEqual(self.resume("again", answer).all(), whole)
        status, reply = request(self.port(), "POST", "/v1/sessions/again/resume", {})
        self.assertEqual((status, reply["error"]["code"]), (409, "session_complete"))

    def test_a_client_that_went_away_can_go_on(self):
        body = {"messages": STORY, "temperature": 2, "seed": 1000, "max_tokens": 400, **SHORT}
        answer = Answer()
        events = api.events(self.port(), "/v1/chat/completions", body, {"x-longshelf-session": "gone"})
        answer.add(events, until=15)
        events.close()
        self.cluster.wait_until(lambda: request(self.port(), "GET", "/v1/sessions/gone")[1]["status"] == "unfinished",
                                "the broken answer still runs")
        # More may have been made than the client has read: the rest ends as the whole does.
        rest = self.resume("gone", Answer())
        whole = Answer().add(api.events(self.port(), "/v1/chat/completions", body))
        self.assertTrue(whole.content.endswith(rest.content) and rest.content)
        self.assertEqual(rest.finish, whole.finish)

    def test_a_session_is_parked_when_its_answer_ends_if_it_says_so(self):
        body = {"messages": STORY, "temperature": 0, "max_tokens": 20, **SHORT,
                "session": {"id": "auto", "retention_s": 600}}
        status, _, _ = api.post(self.port(), "/v1/chat/completions", body)
        self.assertEqual(status, 200)
        self.cluster.wait_until(lambda: request(self.port(), "GET", "/v1/sessions/auto")[1]["parked_at"], "not parked")
        self.lose_everybody()
        status, info = request(self.port(), "GET", "/v1/sessions/auto")
        self.assertEqual((status, info["status"], info["output_tokens"]), (200, "finished", 20))
        self.assertEqual(info["finish_reason"], "length")

    def test_lists_and_deletes(self):
        body = {"messages": STORY, "temperature": 0, "max_tokens": 5, **SHORT}
        for i in range(5):
            api.post(self.port(), "/v1/chat/completions", body, {"x-longshelf-session": f"list-{i}"})
            status, parked = request(self.port(), "POST", f"/v1/sessions/list-{i}/park", {"retention_s": 600})
            self.assertEqual(status, 200, parked)
        # Twice: the newer version replaces the older.
        request(self.port(), "POST", "/v1/sessions/list-0/park", {"retention_s": 900})
        found, after = set(), ""
        while True:
            status, page = request(self.port(), "GET", "/v1/sessions?limit=2" + after)
            self.assertEqual(status, 200, page)
            names = [session["id"] for session in page["data"]]
            self.assertFalse(found & set(names))
            found |= set(names)
            if not page["has_more"]:
                break
            after = "&after=" + page["next"]
        self.assertLessEqual({f"list-{i}" for i in range(5)}, found)
        self.assertEqual(request(self.port(), "DELETE", "/v1/sessions/list-3")[0], 200)
        status, reply = request(self.port(), "GET", "/v1/sessions/list-3")
        self.assertEqual((status, reply["error"]["code"]), (404, "session_not_found"))
        self.assertEqual(request(self.port(), "POST", "/v1/sessions/list-3/resume", {})[0], 404)
        self.assertEqual(request(self.port(), "GET", "/v1/sessions/list-2")[0], 200)

    def test_what_is_wrong_is_said(self):
        park = "/v1/sessions/x/park"
        for body, param in [({}, "retention_s"), ({"retention_s": 0}, "retention_s"),
                            ({"retention_s": 10, "durability": "eternal"}, "durability")]:
            status, reply = request(self.port(), "POST", park, body)
            self.assertEqual((status, reply["error"]["param"]), (400, param))
        self.assertEqual(request(self.port(), "POST", park, {"retention_s": 10})[0], 404)
        self.assertEqual(request(self.port(), "POST", "/v1/sessions/x/sleep", {})[0], 404)
        self.assertEqual(request(self.port(), "GET", "/v1/sessions/a%20b")[0], 400)
        self.assertEqual(request(self.port(), "GET", "/v1/sessions?limit=0")[0], 400)
        self.assertEqual(request(self.port(), "GET", "/v1/sessions?after=zz")[0], 400)
        body = {"messages": STORY, "max_tokens": 5, "n": 2, "session": "x"}
        self.assertEqual(api.post(self.port(), "/v1/chat/completions", body)[2]["error"]["param"], "n")
        # No store here has a disk.
        api.post(self.port(), "/v1/chat/completions", {"messages": STORY, "max_tokens": 5, "session": "disk"})
        status, reply = request(self.port(), "POST", "/v1/sessions/disk/park", {"retention_s": 10, "durability": "disk"})
        self.assertEqual((status, reply["error"]["code"]), (507, "session_store_full"))

    def test_the_usage_says_where_the_prompt_came_from_and_the_metrics_say_the_same(self):
        sources = ("worker", "store", "computed")

        def counted():
            return {source: self.cluster.metric(f'longshelf_router_prompt_source_tokens_total{{source="{source}"}}')
                    for source in sources}

        def missed(reason):
            return self.cluster.metric(f'longshelf_router_prompt_misses_total{{reason="{reason}"}}')

        body = {"messages": [{"role": "user", "content": "Count from 1 to 400. " * 200}], "temperature": 0,
                "max_tokens": 5, **SHORT, "cache_report": True}
        # Cold; again at the worker that has it; and, once that has lost its memory, from the stores.
        for step in ("cold", "again", "moved"):
            if step == "moved":
                api.post(self.port(), "/v1/chat/completions", {**body, "session": "usage"})
                status, parked = request(self.port(), "POST", "/v1/sessions/usage/park", {"retention_s": 600})
                self.assertEqual(status, 200, parked)
                for process in (self.cluster.router, *self.cluster.workers):
                    process.kill()
                    process.start()
                self.cluster.wait_ready(2)
            before = counted()
            before_all = self.cluster.metric("longshelf_router_prompt_tokens_total")
            misses = {reason: missed(reason) for reason in self.miss_reasons()}
            usage = api.post(self.port(), "/v1/chat/completions", body)[2]["usage"]
            details = usage["prompt_tokens_details"]
            after = counted()
            for source in sources:
                self.assertEqual(after[source] - before[source], details[source + "_tokens"], (step, source, details))
            self.assertEqual(sum(details[source + "_tokens"] for source in sources), usage["prompt_tokens"])
            self.assertEqual(self.cluster.metric("longshelf_router_prompt_tokens_total") - before_all,
                             usage["prompt_tokens"])
            self.assertEqual(details["cached_tokens"], details["worker_tokens"] + details["store_tokens"])
            for reason, count in misses.items():
                self.assertEqual(missed(reason) - count, reason == details["miss_reason"], (step, reason, details))
            if step == "cold":
                self.assertEqual(details["cached_tokens"], 0)
                self.assertIn(details["miss_reason"], misses)
            else:
                self.assertGreater(details["worker_tokens" if step == "again" else "store_tokens"], 0, details)

    def miss_reasons(self):
        """All that the router counts."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.cluster.router_admin}/metrics", timeout=10) as answer:
            return re.findall(r'^longshelf_router_prompt_misses_total\{reason="(\w+)"\}', answer.read().decode(), re.M)


class LostStoreTest(unittest.TestCase):
    """One of three stores is gone: nobody notices."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(BIN, MODEL, n_workers=1, n_stores=3)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.stop()

    def test_everything_works(self):
        port = self.cluster.http_port
        body = {"messages": STORY, "temperature": 0, "max_tokens": 20, **SHORT}
        for lost in range(3):
            self.cluster.kvstores[lost].kill()
            api.post(port, "/v1/chat/completions", {**body, "session": f"asked-{lost}"})
            status, parked = request(port, "POST", f"/v1/sessions/asked-{lost}/park", {"retention_s": 600})
            self.assertEqual(status, 200, parked)
            api.post(port, "/v1/chat/completions", {**body, "session": {"id": f"auto-{lost}", "retention_s": 600}})
            self.cluster.wait_until(lambda: request(port, "GET", f"/v1/sessions/auto-{lost}")[1]["parked_at"],
                                    "not parked")
            for name in (f"asked-{lost}", f"auto-{lost}"):
                status, reply = request(port, "DELETE", "/v1/sessions/" + name)
                self.assertEqual(status, 200, reply)
                self.assertEqual(request(port, "GET", "/v1/sessions/" + name)[0], 404)
            status, reply = request(port, "DELETE", "/v1/cache")
            self.assertEqual(status, 200, reply)
            self.cluster.kvstores[lost].start()
            self.cluster.wait_until(lambda: self.is_up(lost), "the store does not start")

    def is_up(self, store):
        try:
            self.cluster.store_metrics(store)
            # Who was told that it is down asks it again within ten seconds.
            return self.cluster.metric("longshelf_kvstore_client_unreachable_stores") == 0
        except OSError:
            return False


unittest.main(argv=sys.argv[:1], verbosity=2)
