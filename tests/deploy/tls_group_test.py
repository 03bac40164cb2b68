#!/usr/bin/env python3
"""A group over two machines with TLS between all parts, as docs/operating.md says: `longshelf certs`, longshelf-host,
longshelf-worker and longshelf-router, up to a client. Machines are network namespaces.

Usage: tls_group_test.py DIRECTORY_OF_THE_PROGRAMS MODEL
"""

import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

from machines import Machines

BIN, MODEL = (os.path.abspath(argument) for argument in sys.argv[1:3])
TIMEOUT_S = 60
KEY = "sk-of-this-test-only"


class TlsGroup(unittest.TestCase):
    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("only root can make network namespaces")
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.at = pathlib.Path(directory.name)
        self.machines = Machines(2, directory.name)
        self.addCleanup(self.machines.stop)
        if why := self.machines.start():
            self.skipTest(why)
        subprocess.run([f"{BIN}/longshelf", "certs", self.at / "certs", "--hosts", ",".join(self.machines.names)],
                       check=True, capture_output=True)
        (self.at / "keys").write_text(f"test:{KEY}\n", encoding="utf-8")
        os.chmod(self.at / "keys", 0o600)

    def start(self, machine, program, role, *flags):
        name = f"{program}-{machine}"
        certs = self.at / "certs"
        log = open(self.at / f"{name}.log", "w", encoding="utf-8")
        self.addCleanup(log.close)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LONGSHELF_")}
        argv = [f"{BIN}/{program}", "--tls-cert", certs / f"{role}.crt", "--tls-key", certs / f"{role}.key",
                "--tls-ca", certs / "ca.crt", *flags]
        if program != "longshelf-router":
            argv += ["--work-dir", self.at / f"{name}-work"]
        process = subprocess.Popen(self.machines.on(machine, *argv), stdout=log, stderr=log, env=environment)
        self.addCleanup(self.stop, process)
        return process

    @staticmethod
    def stop(process):
        process.terminate()
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start_group(self, role_of_worker):
        self.start(1, "longshelf-host", "worker", "--listen", "0.0.0.0:7310")
        return self.start(0, "longshelf-worker", role_of_worker, "--listen", "0.0.0.0:7300", "--model", MODEL,
                          "--hosts", ",".join(self.machines.names), "--kv-memory", "64MiB", "--restart-delay-max", "1s")

    def log(self, name):
        return (self.at / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text, name):
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.log(name):
            if time.monotonic() > deadline:
                self.fail("\n".join(path.read_text(encoding="utf-8") for path in self.at.glob("*.log")))
            time.sleep(0.05)

    def test_a_client_is_answered_by_a_group_whose_parts_trust_certificates_only(self):
        worker = self.start_group("worker")
        self.wait_for("generation 1: serving", "longshelf-worker-0")
        certs = self.at / "certs"
        self.start(0, "longshelf-router", "router", "--listen", "0.0.0.0:8443", "--grpc-listen", "", "--model", MODEL,
                   "--workers", "host0:7300", "--api-keys", self.at / "keys", "--public-tls-cert", certs / "router.crt",
                   "--public-tls-key", certs / "router.key")
        self.wait_for("router serves", "longshelf-router-0")
        context = ssl.create_default_context(cafile=certs / "ca.crt")
        context.check_hostname = False  # this machine knows it by its address
        body = {"messages": [{"role": "user", "content": "What is longshelf?"}], "max_tokens": 8, "temperature": 0}
        request = urllib.request.Request(f"https://{self.machines.address(0)}:8443/v1/chat/completions",
                                         json.dumps(body).encode(), {"Content-Type": "application/json",
                                                                     "Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
            self.assertEqual(json.load(answer)["usage"]["completion_tokens"], 8)
        self.stop(worker)
        self.assertEqual(worker.returncode, 0, self.log("longshelf-worker-0"))

    def test_a_host_starts_nothing_for_another_role(self):
        self.start_group("router")
        self.wait_for("shard 1: host host1", "longshelf-worker-0")
        self.assertIn("this one is of longshelf://role/router", self.log("longshelf-worker-0"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
