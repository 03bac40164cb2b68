#!/usr/bin/env python3
"""`longshelf up --tls`: a whole cluster on this machine in which nothing is said in the clear.
Usage: tls_cluster_test.py DIRECTORY_OF_BINARIES"""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

BINARIES = os.path.abspath(sys.argv[1])
PATIENCE_SECONDS = 30


class TlsClusterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.logs = tempfile.TemporaryDirectory(prefix="tls-cluster-test-")
        cls.certificates = cls.logs.name + "/certificates"
        # A worker of two shards, and stores that know each other.
        cls.up = subprocess.Popen([BINARIES + "/longshelf", "up", "--tls", "--port=0", "--grpc-port=0", "--workers=1",
                                   "--shards=2", "--stores=2", "--logs=" + cls.logs.name],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        cls.watchdog = threading.Timer(100, cls.up.kill)
        cls.watchdog.start()
        cls.text = ""
        for line in cls.up.stdout:
            cls.text += line
            if "Ctrl-C" in line:
                break
        else:
            raise AssertionError(cls.text + cls.up.stderr.read())
        cls.url = re.search(r"HTTP +(https://\S+)/v1", cls.text).group(1)

    @classmethod
    def tearDownClass(cls):
        cls.up.send_signal(signal.SIGINT)
        code = cls.up.wait()
        cls.watchdog.cancel()
        cls.up.stdout.close()
        cls.up.stderr.close()
        cls.logs.cleanup()
        assert code == 0, f"up ended with {code}"

    def context(self, role=None):
        context = ssl.create_default_context(cafile=self.certificates + "/ca.crt")
        if role:
            context.load_cert_chain(f"{self.certificates}/{role}.crt", f"{self.certificates}/{role}.key")
        return context

    def ask(self, url, body=None):
        request = urllib.request.Request(url, body and json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60, context=self.context()) as answer:
            return answer.read().decode()

    def chat(self, **fields):
        body = {"messages": [{"role": "user", "content": "What is longshelf?"}], "temperature": 0, **fields}
        return self.ask(self.url + "/v1/chat/completions", body)

    def metric(self, member, name):
        at = re.search(rf"^ +{member} +(https://\S+)$", self.text, re.M).group(1)
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.ask(at), re.M)
        return sum(map(float, values))

    def flags_of(self, flag):
        """The addresses that processes of the cluster were given with this flag."""
        found = set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                    line = file.read()
            except OSError:
                continue
            if self.certificates in line:
                found.update(re.findall(rf"--{flag}=(127\.0\.0\.1:\d+)\0", line))
        return found

    def certificate_at(self, url):
        host, port = url.removeprefix("https://").split("/")[0].split(":")
        with socket.create_connection((host, int(port)), timeout=20) as plain:
            with self.context().wrap_socket(plain, server_hostname=host) as tls:
                return tls.getpeercert()["serialNumber"]

    def test_answers_a_chat_in_one_piece_and_streamed(self):
        self.assertIn("ordinary machines", self.chat())
        stream = self.chat(stream=True)
        self.assertTrue(stream.endswith("data: [DONE]\n\n"), stream[-200:])
        chat = subprocess.run([BINARIES + "/longshelf", "chat", "--url=" + self.url, "--temperature=0",
                               f"--ca-file={self.certificates}/ca.crt"],
                              input="What is longshelf?\n", capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(chat.returncode, 0, chat.stderr)
        self.assertIn("ordinary machines", chat.stdout)

    def test_parks_a_session_and_resumes_it(self):
        whole = json.loads(self.chat(max_tokens=24))["choices"][0]["message"]
        begun = json.loads(self.chat(max_tokens=24, session="s"))["choices"][0]["message"]
        self.assertEqual(begun, whole)
        parked = json.loads(self.ask(self.url + "/v1/sessions/s/park", {"retention_s": 60}))
        self.assertEqual(parked["durability"], "memory", parked)
        self.assertIn("s", self.ask(self.url + "/v1/sessions"))
        self.assertGreater(self.metric("kvstore-1", "longshelf_kvstore_parked_bytes"), 0)
        self.assertGreater(self.metric("kvstore-2", "longshelf_kvstore_parked_bytes"), 0)

    def test_nothing_is_listened_to_in_the_clear(self):
        listeners = (self.flags_of("listen") | self.flags_of("admin-listen") | self.flags_of("supervisor-listen")
                     | self.flags_of("grpc-listen"))
        self.assertGreaterEqual(len(listeners), 10, "router 3, stores 4, worker 3")
        for address in listeners:
            host, port = address.split(":")
            with socket.create_connection((host, int(port)), timeout=20) as plain:
                plain.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = b""
                try:
                    while piece := plain.recv(4096):
                        answer += piece
                except ConnectionResetError:
                    pass
                self.assertNotIn(b"HTTP/1.1 200", answer, address)

    def test_internal_ports_want_a_certificate(self):
        internal = self.flags_of("listen") - {self.url.removeprefix("https://")}
        self.assertEqual(len(internal), 3, "two stores and a worker")
        for address in internal:
            host, port = address.split(":")
            for role in (None, "operator"):
                context = self.context(role)
                context.set_alpn_protocols(["h2"])
                with socket.create_connection((host, int(port)), timeout=20) as plain:
                    with context.wrap_socket(plain, server_hostname=host) as tls:
                        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
                        try:
                            answered = bool(tls.recv(1))
                        except (ssl.SSLError, ConnectionResetError):
                            answered = False
                self.assertEqual(answered, role is not None, address)

    def test_renewed_certificates_are_used_without_a_restart(self):
        urls = [self.url] + re.findall(r"^ +\S+ +(https://\S+)/metrics$", self.text, re.M)
        before = {url: self.certificate_at(url) for url in urls}
        renew = subprocess.run([BINARIES + "/longshelf", "certs", self.certificates, "--renew"], capture_output=True,
                               text=True, timeout=60, check=False)
        self.assertEqual(renew.returncode, 0, renew.stderr)
        self.assertIn("worker.key: replaced", renew.stdout)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(self.certificate_at(url) == before[url] for url in urls):
            self.assertLess(time.monotonic(), deadline, "an old certificate is still shown")
        self.assertIn("ordinary machines", self.chat(session="renewed"))
        self.ask(self.url + "/v1/sessions/renewed/park", {"retention_s": 60})
        self.assertEqual(self.metric("kvstore-1", "longshelf_tls_reloads_total"), 1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
