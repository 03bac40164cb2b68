#!/usr/bin/env python3
"""The real thing: `longshelf up` with the demo model, asked by HTTP and by `longshelf chat` through a pipe and at a
terminal. Usage: cluster_test.py DIRECTORY_OF_BINARIES"""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

BINARIES = os.path.abspath(sys.argv[1])
READY_SECONDS_MAX = 10
MEMORY_BYTES_MAX = 2 << 30


def processes_below(pid):
    """pid and all its descendants."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(name))
        except OSError:
            pass
    found = [pid]
    for process in found:
        found += children.get(process, [])
    return found


def resident_bytes(pid):
    try:
        with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


class Terminal:
    """`longshelf chat` at a pseudo terminal."""

    def __init__(self, args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.pop("NO_COLOR", None)
            os.execv(args[0], args)
        self.seen = ""

    def wait_for(self, text, seconds=60):
        """What came up to and including `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            try:
                piece = os.read(self.fd, 65536)
            except OSError:
                raise AssertionError(f"ended before {text!r}: {self.seen!r}") from None
            self.seen += piece.decode(errors="replace")
        before, self.seen = self.seen.split(text, 1)
        return before + text

    def type(self, text):
        os.write(self.fd, text.encode())

    def exit_code(self):
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


class ClusterTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.logs = tempfile.TemporaryDirectory(prefix="cluster-test-")
        cls.shm_before = set(os.listdir("/dev/shm"))
        start = time.monotonic()
        cls.up = subprocess.Popen([BINARIES + "/longshelf", "up", "--port=0", "--grpc-port=0", "--logs=" + cls.logs.name],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        cls.watchdog = threading.Timer(150, cls.up.kill)
        cls.watchdog.start()
        text = ""
        for line in cls.up.stdout:
            text += line
            if "Ctrl-C" in line:
                break
        else:
            raise AssertionError(text + cls.up.stderr.read())
        cls.ready_seconds = time.monotonic() - start
        cls.url = re.search(r"HTTP +(http://\S+)/v1", text).group(1)
        cls.curl = re.search(r"^curl .*$", text, re.M).group(0)

    @classmethod
    def tearDownClass(cls):
        members = processes_below(cls.up.pid)
        cls.up.send_signal(signal.SIGINT)
        code = cls.up.wait()
        cls.watchdog.cancel()
        cls.up.stdout.close()
        cls.up.stderr.close()
        cls.logs.cleanup()
        left = [pid for pid in members if os.path.exists(f"/proc/{pid}")]
        assert code == 0, f"up ended with {code}"
        assert not left, f"processes are left: {left}"
        shm = {name for name in set(os.listdir("/dev/shm")) - cls.shm_before if "longshelf" in name}
        assert not shm, f"shared memory is left: {shm}"

    def chat(self, text, *flags):
        run = subprocess.run([BINARIES + "/longshelf", "chat", "--url=" + self.url, "--temperature=0", *flags],
                             input=text, capture_output=True, text=True, timeout=60, check=False)
        return run.returncode, run.stdout, run.stderr

    def test_is_ready_soon_and_small(self):
        self.assertLess(self.ready_seconds, READY_SECONDS_MAX)
        members = processes_below(self.up.pid)
        self.assertGreaterEqual(len(members), 8)  # up, store, router, 2 supervisors, mpirun, 3 shards
        self.assertLess(sum(map(resident_bytes, members)), MEMORY_BYTES_MAX)

    def test_answers_the_curl_line_it_prints(self):
        run = subprocess.run(["bash", "-c", self.curl], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        message = json.loads(run.stdout)["choices"][0]["message"]
        self.assertIn("ordinary machines", message["content"])

    def test_listens_on_loopback_only(self):
        inodes = set()
        for pid in processes_below(self.up.pid):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                    if file.read().strip() == "mpirun":
                        continue  # Open MPI's launcher binds its own port to every address and cannot be told not to
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
            except OSError:
                pass
        n_listeners = 0
        for table, loopback in (("tcp", re.compile(r"^[0-9A-F]{6}7F$")), ("tcp6", re.compile(r"^0{24}01000000$|^0{16}F{4}0{4}.{6}7F$"))):
            with open(f"/proc/net/{table}", encoding="utf-8") as file:
                for line in file.readlines()[1:]:
                    words = line.split()
                    if words[3] == "0A" and words[9] in inodes:
                        n_listeners += 1
                        self.assertRegex(words[1].split(":")[0], loopback)
        self.assertGreaterEqual(n_listeners, 11)

    def test_says_in_metrics_what_runs(self):
        with open(f"/proc/{self.up.pid}/cmdline", encoding="utf-8") as file:
            self.assertIn("up", file.read())
        for pid in processes_below(self.up.pid)[1:]:
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                match = re.search(r"--admin-listen=([\d.:]+)", file.read())
            if match:
                with urllib.request.urlopen(f"http://{match.group(1)}/metrics", timeout=10) as answer:
                    self.assertIn("longshelf_build_info{", answer.read().decode())

    def test_chats_through_a_pipe(self):
        code, out, err = self.chat("What is longshelf?\n")
        self.assertEqual(code, 0, err)
        self.assertIn("ordinary machines", out)
        self.assertNotIn("\x1b", out)
        self.assertRegex(err, r"\[\d+ tokens, .*tokens/s")

    def test_takes_commands_through_a_pipe(self):
        code, out, err = self.chat("/help\n/nonsense\n/reset\n/quit\nWhat is longshelf?\n")
        self.assertEqual((code, out), (0, ""))
        self.assertIn("unknown command /nonsense", err)
        self.assertIn("forgotten", err)

    def test_shows_reasoning_when_asked(self):
        shown = self.chat("What is longshelf?\n", "--thinking=enabled", "--reasoning=show")[1]
        hidden = self.chat("What is longshelf?\n", "--thinking=enabled", "--reasoning=hide")[1]
        self.assertTrue(shown.strip().endswith(hidden.strip()), (shown, hidden))
        self.assertGreater(len(shown), len(hidden))

    def test_chats_at_a_terminal_where_ctrl_c_stops_only_the_answer(self):
        terminal = Terminal([BINARIES + "/longshelf", "chat", "--url=" + self.url, "--temperature=0",
                             "--thinking=enabled"])
        terminal.wait_for("> ")
        terminal.type("\x03")
        terminal.wait_for("(/quit or Ctrl-D leaves)")
        terminal.wait_for("> ")
        terminal.type("What is longshelf?\n")
        answer = terminal.wait_for("tokens/s")
        self.assertIn("\x1b[2m", answer)  # reasoning is dim
        self.assertIn("\x1b[0m", answer)  # the answer is not
        terminal.wait_for("> ")
        terminal.type("Tell me a long story.\n")
        terminal.wait_for("\x1b[2m")
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for("> ")
        terminal.type("/reset\n")
        terminal.wait_for("forgotten")
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        self.assertEqual(terminal.exit_code(), 0)


class StoresTest(unittest.TestCase):
    def test_several_stores_share_a_directory_and_keep_what_is_parked(self):
        with tempfile.TemporaryDirectory(prefix="cluster-test-") as directory:
            up = subprocess.Popen([BINARIES + "/longshelf", "up", "--port=0", "--grpc-port=0", "--workers=1", "--stores=3",
                                   f"--logs={directory}/logs", f"--kvstore-flags=--disk={directory}/disk",
                                   "--kvstore-flags=--disk-size=768MiB"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            watchdog = threading.Timer(100, up.kill)
            watchdog.start()
            try:
                text = ""
                for line in up.stdout:
                    text += line
                    if "Ctrl-C" in line:
                        break
                else:
                    self.fail(text + up.stderr.read())
                self.assertEqual(len(re.findall(r"^ +kvstore-\d", text, re.M)), 3)
                url = re.search(r"HTTP +(http://\S+)/v1", text).group(1)
                answer = self.post(url + "/v1/chat/completions", {
                    "messages": [{"role": "user", "content": "What is longshelf?"}], "temperature": 0, "max_tokens": 20,
                    "session": "s"})
                self.assertEqual(answer["usage"]["completion_tokens"], 20)
                parked = self.post(url + "/v1/sessions/s/park", {"retention_s": 60, "durability": "disk_all"})
                self.assertEqual(parked["durability"], "disk_all")
                self.assertEqual(sorted(os.listdir(directory + "/disk")), ["kvstore-1", "kvstore-2", "kvstore-3"])
            finally:
                up.send_signal(signal.SIGINT)
                code = up.wait()
                watchdog.cancel()
                up.stdout.close()
                up.stderr.close()
            self.assertEqual(code, 0)

    @staticmethod
    def post(url, body):
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
