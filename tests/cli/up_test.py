#!/usr/bin/env python3
"""`longshelf up` with stand-ins for the programs it starts. Usage: up_test.py PATH_OF_LONGSHELF"""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

LONGSHELF = os.path.abspath(sys.argv[1])
HERE = os.path.dirname(os.path.abspath(__file__))


class UpTest(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="up-test-")
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        os.makedirs(self.root + "/bin")
        os.makedirs(self.root + "/models/demo")
        open(self.root + "/models/demo/config.json", "w").close()
        shutil.copy(LONGSHELF, self.root + "/bin/longshelf")
        for name in ("kvstore", "worker", "router"):
            shutil.copy(HERE + "/fake_member.py", f"{self.root}/bin/longshelf-{name}")
            os.chmod(f"{self.root}/bin/longshelf-{name}", 0o755)

    def start(self, *flags, port=0, **environment):
        up = subprocess.Popen([self.root + "/bin/longshelf", "up", f"--port={port}", "--grpc-port=0",
                               f"--logs={self.root}/logs", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, env={**os.environ, **environment})
        self.addCleanup(up.stdout.close)
        self.addCleanup(up.stderr.close)
        watchdog = threading.Timer(60, up.kill)
        watchdog.start()
        self.addCleanup(watchdog.cancel)
        return up

    def read_until_up(self, up):
        text = ""
        for line in up.stdout:
            text += line
            if "Ctrl-C" in line:
                return text
        self.fail(text + up.stderr.read())

    def members(self):
        """Processes that run one of our stand-ins."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().decode().split("\0")
            except OSError:
                continue
            if any(word.startswith(self.root + "/bin/longshelf-") for word in words[:3]):
                found.append(int(pid))
        return found

    def member(self, name):
        for pid in self.members():
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                if f"longshelf-{name}" in file.read():
                    return pid
        self.fail(f"no {name}")

    def wait_for_no_members(self):
        for pid in self.members():
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:
                continue
            select.select([descriptor], [], [], 20)
            os.close(descriptor)
        self.assertEqual(self.members(), [])

    def log(self, name):
        with open(f"{self.root}/logs/{name}.log", encoding="utf-8") as file:
            return file.read()

    def test_starts_everything_and_stops_it_cleanly(self):
        up = self.start()
        text = self.read_until_up(up)
        self.assertRegex(text, r"HTTP +http://127.0.0.1:\d+/v1")
        self.assertIn("2 workers with 1 and 2 shards", text)
        self.assertRegex(text, r"curl -s http://127.0.0.1:\d+/v1/chat/completions .*What is longshelf")
        self.assertEqual(len(self.members()), 4)
        up.send_signal(signal.SIGINT)
        self.assertEqual(up.wait(), 0)
        self.assertEqual(self.members(), [])
        for name in ("kvstore", "worker-1", "worker-2", "router"):
            self.assertIn("stopping", self.log(name))

    def test_shows_how_loading_goes(self):
        up = self.start("--workers=1")
        self.read_until_up(up)
        up.terminate()
        self.assertEqual(up.wait(), 0)
        self.assertIn("worker-1: loading 50 %", up.stderr.read())

    def test_reports_a_member_that_cannot_start(self):
        up = self.start(FAKE_REFUSE="worker")
        out, err = up.communicate()
        self.assertEqual(up.returncode, 69)
        self.assertRegex(err, r"worker-\d ended with exit code 78 while starting")
        self.assertIn("cannot go on", err)
        self.assertNotIn("curl", out)
        self.assertEqual(self.members(), [])

    def test_reports_a_member_that_ends_and_goes_on_without_it(self):
        up = self.start()
        self.read_until_up(up)
        os.kill(self.member("kvstore"), signal.SIGKILL)
        for line in up.stderr:
            if "kvstore ended unexpectedly with signal 9" in line:
                break
        self.assertEqual(len(self.members()), 3)
        up.terminate()
        self.assertEqual(up.wait(), 0)

    def test_stops_when_there_is_no_router_any_more(self):
        up = self.start()
        self.read_until_up(up)
        os.kill(self.member("router"), signal.SIGKILL)
        _, err = up.communicate()
        self.assertEqual(up.returncode, 69)
        self.assertIn("there is no router any more", err)
        self.assertEqual(self.members(), [])

    def test_kills_a_member_that_does_not_end(self):
        up = self.start("--stop-timeout=100ms", FAKE_STUBBORN="kvstore")
        self.read_until_up(up)
        up.terminate()
        _, err = up.communicate()
        self.assertEqual(up.returncode, 0)
        self.assertIn("kvstore did not end in time; killed", err)
        self.assertEqual(self.members(), [])

    def test_takes_its_members_along_when_it_is_killed(self):
        up = self.start()
        self.read_until_up(up)
        up.kill()
        up.wait()
        self.wait_for_no_members()

    def test_can_be_stopped_while_it_starts(self):
        up = self.start()
        up.stderr.readline()
        up.send_signal(signal.SIGINT)
        self.assertEqual(up.wait(), 0)
        self.assertEqual(self.members(), [])

    def test_refuses_a_port_that_is_taken(self):
        first = self.start()
        port = int(re.search(r"HTTP +http://127.0.0.1:(\d+)", self.read_until_up(first)).group(1))
        first.terminate()
        first.wait()
        with socket.create_server(("127.0.0.1", port)):
            second = self.start(port=port)
            _, err = second.communicate()
        self.assertEqual(second.returncode, 69)
        self.assertIn(f"port {port} of 127.0.0.1 is taken", err)

    def test_refuses_a_directory_that_is_no_model(self):
        up = self.start("--model=" + self.root)
        _, err = up.communicate()
        self.assertEqual(up.returncode, 64)
        self.assertIn("has no config.json", err)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
