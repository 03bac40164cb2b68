#!/usr/bin/env python3
"""The batch script of deploy/slurm on a Slurm of one node, which this test starts and ends.

Usage: slurm_test.py DIRECTORY_OF_THE_PROGRAMS MODEL BATCH_SCRIPT
"""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

BIN, MODEL, SCRIPT = (os.path.abspath(argument) for argument in sys.argv[1:4])
TIMEOUT_S = 60
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
StateSaveLocation={at}/controller
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/controller.pid
SlurmdPidFile={at}/node.pid
PlugStackConfig=/dev/null
SwitchType=switch/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={n_cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    """Why Slurm cannot be started here; empty when it can."""
    if os.geteuid() != 0:
        return "only root can start slurmd for jobs"
    missing = [p for p in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel") if not shutil.which(p)]
    return f"not installed: {', '.join(missing)} (scripts/install-deps.sh test)" if missing else ""


def wait_until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what())
        time.sleep(0.1)


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def free_range(n):
    """The first of n neighbouring ports."""
    for first in range(21000, 31000, n):
        sockets = [socket.socket() for _ in range(n)]
        try:
            for i, one in enumerate(sockets):
                one.bind(("0.0.0.0", first + i))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no free ports")


class Slurm:
    def __init__(self, directory):
        self.directory = directory
        host = socket.gethostname().partition(".")[0]
        for name in ("spool", "controller"):
            os.mkdir(f"{directory}/{name}", 0o700)
        os.chmod(directory, 0o755)
        with open(f"{directory}/munge.key", "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as key:
            key.write(os.urandom(64))
        text = CONFIGURATION.format(host=host, at=directory, ports=free_ports(2), n_cpus=os.cpu_count())
        pathlib.Path(directory, "slurm.conf").write_text(text, encoding="utf-8")
        pathlib.Path(directory, "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("LONGSHELF_")},
                            "SLURM_CONF": f"{directory}/slurm.conf"}
        self.daemons = []

    def start(self):
        at = self.directory
        self.daemon("munged", "--force", "--foreground", f"--key-file={at}/munge.key", f"--socket={at}/munge.socket",
                    f"--pid-file={at}/munge.pid", f"--log-file={at}/munge.log", f"--seed-file={at}/munge.seed")
        wait_until(lambda: os.path.exists(f"{at}/munge.socket"), self.logs)
        self.daemon("slurmctld", "-D", "-f", f"{at}/slurm.conf")
        self.daemon("slurmd", "-D", "-f", f"{at}/slurm.conf")
        wait_until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False), self.logs)

    def daemon(self, *argv):
        log = open(f"{self.directory}/{argv[0]}.out", "w", encoding="utf-8")
        self.daemons.append((subprocess.Popen(argv, stdout=log, stderr=log, env=self.environment), log))

    def run(self, *argv, check=True):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, env=self.environment,
                              check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{argv}: {done.stderr}")
        return done.stdout

    def submit(self, **settings):
        names = ",".join(["ALL", *(f"{name}={value}" for name, value in settings.items())])
        out = self.run("sbatch", "--nodes=1", "--cpus-per-task=1", f"--output={self.directory}/job.out",
                       f"--export={names}", SCRIPT)
        return re.search(r"\d+", out).group(0)

    def state(self, job):
        return re.search(r"JobState=(\S+)", self.run("scontrol", "show", "job", job)).group(1)

    def logs(self):
        return "\n".join(path.read_text(encoding="utf-8", errors="replace")[-2000:]
                         for path in sorted(pathlib.Path(self.directory).rglob("*")) if path.suffix in (".out", ".log"))

    def stop(self):
        for process, log in reversed(self.daemons):
            process.terminate()
            process.wait(TIMEOUT_S)
            log.close()


class SlurmTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if why_not():
            raise unittest.SkipTest(why_not())
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.slurm = Slurm(directory.name)
        cls.addClassCleanup(cls.slurm.stop)
        cls.slurm.start()
        cls.state = pathlib.Path(directory.name, "state")

    def submit(self, **settings):
        shutil.rmtree(self.state, ignore_errors=True)
        job = self.slurm.submit(BIN=BIN, STATE_DIR=self.state, KV_MEMORY="64MiB", STORE_MEMORY="64MiB",
                                BASE_PORT=free_range(8), **settings)
        self.addCleanup(self.slurm.run, "scancel", job, check=False)
        return job

    def wait_for_end(self, job):
        wait_until(lambda: self.slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), self.slurm.logs)
        return self.slurm.state(job)

    def test_a_job_serves_with_two_shards_and_drains_when_asked_to_end(self):
        job = self.submit(MODEL=MODEL, SHARDS=2)
        wait_until((self.state / "endpoint").exists, self.slurm.logs)
        url, key = re.findall(r": (\S+)", (self.state / "endpoint").read_text(encoding="utf-8"))
        self.assertEqual((self.state / "endpoint").stat().st_mode & 0o077, 0, "it holds a key")
        body = json.dumps({"messages": [{"role": "user", "content": "What is longshelf?"}], "max_tokens": 4}).encode()
        headers = {"Content-Type": "application/json"}
        address = re.sub(r"//[^:/]+", "//127.0.0.1", url) + "/chat/completions"
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=TIMEOUT_S)
        self.assertEqual(refused.exception.code, 401)
        request = urllib.request.Request(address, body, {**headers, "Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            self.assertEqual(json.load(answer)["usage"]["completion_tokens"], 4)

        self.slurm.run("scancel", "--signal=TERM", "--batch", job)
        self.assertEqual(self.wait_for_end(job), "COMPLETED", self.slurm.logs())
        self.assertFalse((self.state / "endpoint").exists())
        worker_log, = self.state.glob("worker-*.log")
        self.assertIn("generation 1: draining", worker_log.read_text(encoding="utf-8"))
        self.assertIn("2 shard(s)", worker_log.read_text(encoding="utf-8"))
        store_log, = self.state.glob("kvstore-*.log")
        self.assertIn("stopping", store_log.read_text(encoding="utf-8"))

    def test_a_job_that_cannot_serve_fails_and_says_where_to_look(self):
        job = self.submit(MODEL="/nonexistent")
        self.assertEqual(self.wait_for_end(job), "FAILED")
        self.assertIn("logs are in", pathlib.Path(self.slurm.directory, "job.out").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
