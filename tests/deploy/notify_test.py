#!/usr/bin/env python3
"""What the servers say to systemd, over a socket of this test: that they are ready, alive, and stopping.

Usage: notify_test.py DIRECTORY_OF_THE_PROGRAMS MODEL
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

BIN = pathlib.Path(sys.argv[1])
MODEL = os.path.abspath(sys.argv[2])
BEAT_S = 2
TIMEOUT_S = 60


class Service:
    """A program as systemd would start it."""

    def __init__(self, directory, program, *args):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = os.path.join(directory, f"{program}.notify")
        self.socket.bind(path)
        self.log = open(os.path.join(directory, f"{program}.log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [BIN / program, *args], stderr=self.log,
            env={**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(3 * BEAT_S * 1_000_000)})

    def hear(self, wanted, timeout=TIMEOUT_S):
        """The first message that holds `wanted`."""
        self.socket.settimeout(timeout)
        while True:
            message = self.socket.recv(4096).decode()
            if wanted in message:
                return message

    def forget(self):
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(4096)
        except BlockingIOError:
            pass

    def text(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        self.process.terminate()
        self.hear("STOPPING=1")
        return self.process.wait(TIMEOUT_S)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.socket.close()
        self.log.close()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Notify(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def start(self, program, *args):
        service = Service(self.directory, program, *args)
        self.addCleanup(service.close)
        return service

    def test_the_store_is_ready_alive_and_stops(self):
        store = self.start("longshelf-kvstore", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--memory=16MiB")
        self.assertIn("STATUS=serving", store.hear("READY=1"))
        store.hear("WATCHDOG=1")
        store.hear("WATCHDOG=1")
        os.kill(store.process.pid, signal.SIGSTOP)
        store.forget()
        self.assertRaises(TimeoutError, store.hear, "WATCHDOG=1", 2 * BEAT_S)
        os.kill(store.process.pid, signal.SIGCONT)
        self.assertEqual(store.stop(), 0)

    def test_the_router_is_ready_when_a_worker_is(self):
        port = free_port()
        router = self.start("longshelf-router", "--listen=127.0.0.1:0", "--grpc-listen=127.0.0.1:0", f"--model={MODEL}",
                            f"--workers=127.0.0.1:{port}")
        self.assertNotIn("READY=1", router.hear("STATUS=0 of 1 workers ready"))
        worker = self.start("longshelf-worker", f"--listen=127.0.0.1:{port}", f"--model={MODEL}",
                            f"--work-dir={self.directory}/work")
        worker.hear("READY=1")
        self.assertIn("STATUS=1 of 1 workers ready", router.hear("READY=1"))
        router.hear("WATCHDOG=1")
        self.assertEqual(worker.stop(), 0)
        router.hear("STATUS=0 of 1 workers ready")
        self.assertEqual(router.stop(), 0)

    def test_a_worker_is_alive_while_its_engine_is(self):
        worker = self.start("longshelf-worker", f"--model={MODEL}", f"--work-dir={self.directory}/work")
        self.assertIn("generation 1 is starting", worker.hear("STATUS="))
        worker.hear("READY=1")
        for _ in range(3):
            worker.hear("WATCHDOG=1")
        shards = pathlib.Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text().split()
        self.assertEqual(len(shards), 1)
        os.kill(int(shards[0]), signal.SIGSTOP)
        n_heard = 0
        try:
            while n_heard < 4:
                worker.hear("WATCHDOG=1", 2.5 * BEAT_S)
                n_heard += 1
        except TimeoutError:
            pass
        self.assertLessEqual(n_heard, 2, "it may still be told of what the engine did until it stood still")
        os.kill(int(shards[0]), signal.SIGCONT)
        worker.hear("WATCHDOG=1")
        os.kill(int(shards[0]), signal.SIGKILL)
        worker.hear("STATUS=generation 1 has ended")
        worker.hear("STATUS=generation 2 serves")
        self.assertEqual(worker.stop(), 0, worker.text())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
