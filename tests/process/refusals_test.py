#!/usr/bin/env python3
"""Every program where the system has less than it wants: it says so and ends with an exit code; none aborts.

Usage: refusals_test.py DIRECTORY_OF_THE_PROGRAMS MODEL
"""

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import unittest

BIN = pathlib.Path(sys.argv[1])
MODEL = os.path.abspath(sys.argv[2])
EXIT_SYSTEM = 71
SERVERS = {
    "longshelf-host": ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"],
    "longshelf-kvstore": ["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--memory=16MiB"],
    "longshelf-router": ["--listen=127.0.0.1:0", "--grpc-listen=127.0.0.1:0", f"--model={MODEL}",
                         "--workers=127.0.0.1:9"],
    "longshelf-shard": [f"--model={MODEL}", "--threads=4"],
    "longshelf-worker": [f"--model={MODEL}", "--failed-starts-max=1"],
}
PROGRAMS = ["longshelf", *SERVERS]


class Refused(unittest.TestCase):
    def run_to_end(self, program, args, prepare=None, **environment):
        run = subprocess.run([BIN / program, *args], capture_output=True, text=True, timeout=60, preexec_fn=prepare,
                             env={**os.environ, **environment}, check=False)
        self.assertGreaterEqual(run.returncode, 0, f"{program} {args}: signal {-run.returncode}\n{run.stderr}")
        self.assertNotIn("terminate called", run.stderr)
        return run

    def test_a_temporary_directory_that_does_not_exist(self):
        for program in PROGRAMS:
            for args in (["--version"], ["--help"]):
                with self.subTest(program, args=args):
                    self.assertEqual(self.run_to_end(program, args, TMPDIR="/nonexistent").returncode, 0)
        for program, args in SERVERS.items():
            with self.subTest(program):
                run = self.run_to_end(program, [*args, "--print-config"], TMPDIR="/nonexistent")
                self.assertEqual(run.returncode, 0, run.stderr)

    def test_a_worker_serves_without_its_temporary_directory(self):
        worker = subprocess.Popen([BIN / "longshelf-worker", f"--model={MODEL}", "--failed-starts-max=1"],
                                  stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": "/nonexistent"})
        lines = []
        for line in worker.stderr:
            lines.append(line)
            if "serving after" in line:
                worker.terminate()
        worker.stderr.close()
        self.assertEqual(worker.wait(60), 0, "".join(lines))

    def test_a_control_group_smaller_than_the_memory_asked_for(self):
        group = make_control_group(200 << 20)
        if group is None:
            self.skipTest("this user may not make control groups with a memory controller here")
        try:
            with open(group / "cgroup.procs", "w", encoding="ascii") as procs:
                enter = lambda: os.write(procs.fileno(), str(os.getpid()).encode())  # noqa: E731
                store = self.run_to_end("longshelf-kvstore", [*SERVERS["longshelf-kvstore"][:2], "--memory=1GiB"], enter)
                shard = self.run_to_end("longshelf-shard", [f"--model={MODEL}", "--kv-memory=1GiB"], enter)
            for run in (store, shard):
                self.assertEqual(run.returncode, 78, run.stderr)
                self.assertRegex(run.stderr, f"available in control group {group} .limit 209715200 bytes")
        finally:
            os.rmdir(group)

    def test_too_few_descriptors(self):
        for program, args in SERVERS.items():
            for n_files in (4, 8, 16, 63):
                with self.subTest(program, n_files=n_files):
                    run = self.run_to_end(program, args, lambda n=n_files: limit(resource.RLIMIT_NOFILE, n))
                    self.assertNotEqual(run.returncode, 0)
                    self.assertRegex(run.stderr, "ulimit -n|shared libraries")
        for n_files in (4, 5, 6):
            run = self.run_to_end("longshelf", ["up"], lambda n=n_files: limit(resource.RLIMIT_NOFILE, n))
            self.assertNotEqual(run.returncode, 0)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become a user without processes, whose threads are counted")
    def test_too_few_threads(self):
        for program, args in SERVERS.items():
            for n_threads in (0, 1):
                with self.subTest(program, n_threads=n_threads), tempfile.TemporaryDirectory() as work:
                    os.chmod(work, 0o777)
                    more = [f"--work-dir={work}/w"] if program in ("longshelf-host", "longshelf-worker") else []
                    run = self.run_to_end(program, [*args, *more], lambda n=n_threads: become_nobody(n))
                    self.assertEqual(run.returncode, EXIT_SYSTEM, run.stderr)
                    self.assertIn(f"{program}: the system refused something", run.stderr)

    def test_a_directory_whose_name_is_not_text(self):
        with tempfile.TemporaryDirectory() as parent:
            strange = os.path.join(os.fsencode(parent), b"\xff\xfe")
            os.symlink(MODEL, strange)
            run = subprocess.run([BIN / "longshelf", "model", "info", strange, "--json"], capture_output=True, timeout=60,
                                 check=False)
            self.assertEqual(run.returncode, 0, run.stderr)


def make_control_group(n_bytes):
    for base in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        group = pathlib.Path(base, f"longshelf-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (group / name).exists():
                (group / name).write_text(str(n_bytes), encoding="ascii")
                return group
        group.rmdir()
    return None


def limit(what, n):
    resource.setrlimit(what, (n, n))


def become_nobody(n_threads):
    os.setgid(65534)
    os.setuid(65534)
    limit(resource.RLIMIT_NPROC, n_threads)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
