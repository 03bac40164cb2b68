#!/usr/bin/env python3
"""The batch script of deploy/slurm on Slurms of one node and of two, which this test starts and ends.

Usage: slurm_test.py DIRECTORY_OF_THE_PROGRAMS MODEL BATCH_SCRIPT
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from machines import Machines

BIN, MODEL, SCRIPT = (os.path.abspath(argument) for argument in sys.argv[1:4])
TIMEOUT_S = 60
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}({address})
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
SlurmdSpoolDir={at}/spool-%n
SlurmctldPidFile={at}/controller.pid
SlurmdPidFile={at}/node-%n.pid
PlugStackConfig=/dev/null
SwitchType=switch/none
{nodes}
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
    """On this machine, or on `machines` with the controller here."""

    def __init__(self, directory, machines=None):
        self.directory = directory
        self.machines = machines
        here = socket.gethostname().partition(".")[0]
        self.nodes = machines.names if machines else [here]
        os.mkdir(f"{directory}/controller", 0o700)
        os.chmod(directory, 0o755)
        with open(f"{directory}/munge.key", "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as key:
            key.write(os.urandom(64))
        addresses = [machines.address(i) for i in range(len(self.nodes))] if machines else ["127.0.0.1"]
        nodes = [f"NodeName={name} NodeAddr={address} CPUs={os.cpu_count()} State=UNKNOWN"
                 for name, address in zip(self.nodes, addresses)]
        text = CONFIGURATION.format(host=here, address=machines.own_address if machines else "127.0.0.1",
                                    at=directory, ports=free_ports(2), nodes="\n".join(nodes))
        pathlib.Path(directory, "slurm.conf").write_text(text, encoding="utf-8")
        pathlib.Path(directory, "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("LONGSHELF_")},
                            "SLURM_CONF": f"{directory}/slurm.conf"}
        self.daemons = []

    def start(self):
        at = self.directory
        self.daemon("munged", ["munged", "--force", "--foreground", f"--key-file={at}/munge.key",
                               f"--socket={at}/munge.socket", f"--pid-file={at}/munge.pid",
                               f"--log-file={at}/munge.log", f"--seed-file={at}/munge.seed"])
        wait_until(lambda: os.path.exists(f"{at}/munge.socket"), self.logs)
        self.daemon("slurmctld", ["slurmctld", "-D", "-f", f"{at}/slurm.conf"])
        for i, node in enumerate(self.nodes):
            argv = ["slurmd", "-D", "-f", f"{at}/slurm.conf"]
            self.daemon(f"slurmd-{node}", self.machines.on(i, *argv) if self.machines else argv)
        idle = [f"{node} idle" for node in self.nodes]
        wait_until(lambda: self.run("sinfo", "-N", "-h", "-o", "%N %T", check=False).splitlines() == idle, self.logs)

    def address_of(self, host):
        """Where this process reaches a node."""
        return self.machines.address(self.nodes.index(host)) if self.machines else "127.0.0.1"

    def daemon(self, name, argv):
        log = open(f"{self.directory}/{name}.out", "w", encoding="utf-8")
        self.daemons.append((subprocess.Popen(argv, stdout=log, stderr=log, env=self.environment), log))

    def run(self, *argv, check=True):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, env=self.environment,
                              check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{argv}: {done.stderr}")
        return done.stdout

    def submit(self, **settings):
        names = ",".join(["ALL", *(f"{name}={value}" for name, value in settings.items())])
        output = f"--output={self.directory}/job.out"
        out = self.run("sbatch", f"--nodes={len(self.nodes)}", "--cpus-per-task=1", output,
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


class SlurmTest:
    """What both kinds have in common."""

    @classmethod
    def make_slurm(cls, n_machines):
        if why_not():
            raise unittest.SkipTest(why_not())
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        machines = Machines(n_machines, directory.name) if n_machines else None
        if machines:
            cls.addClassCleanup(machines.stop)
            if why := machines.start():
                raise unittest.SkipTest(why)
        cls.slurm = Slurm(directory.name, machines)
        cls.addClassCleanup(cls.slurm.stop)
        cls.slurm.start()
        cls.state = pathlib.Path(directory.name, "state")

    def submit(self, **settings):
        shutil.rmtree(self.state, ignore_errors=True)
        job = self.slurm.submit(BIN=BIN, STATE_DIR=self.state, KV_MEMORY="64MiB", STORE_MEMORY="64MiB",
                                BASE_PORT=free_range(8), **settings)
        self.addCleanup(self.slurm.run, "scancel", job, check=False)
        return job

    def wait_until_serving(self):
        """Address and key from the endpoint file, the address as this process reaches it."""
        wait_until((self.state / "endpoint").exists, self.logs)
        url, key = re.findall(r": (\S+)", (self.state / "endpoint").read_text(encoding="utf-8"))
        host = re.search(r"//([^:/]+)", url).group(1)
        return url.replace(host, self.slurm.address_of(host)) + "/chat/completions", key

    def ask(self, address, key):
        body = {"messages": [{"role": "user", "content": "What is longshelf?"}], "max_tokens": 8, "temperature": 0}
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer = json.load(answer)
        self.assertEqual(answer["usage"]["completion_tokens"], 8)
        return answer["choices"][0]["message"]

    def log(self, name):
        """Of one program, on all nodes where it ran."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.state.glob(f"{name}-*.log")))

    def logs(self):
        return self.slurm.logs()

    def drain(self, job):
        self.slurm.run("scancel", "--signal=TERM", "--batch", job)
        self.assertEqual(self.wait_for_end(job), "COMPLETED", self.logs())
        self.assertFalse((self.state / "endpoint").exists())

    def wait_for_end(self, job):
        wait_until(lambda: self.slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), self.slurm.logs)
        return self.slurm.state(job)


class OneNode(SlurmTest, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.make_slurm(0)

    def test_a_job_serves_with_two_shards_and_drains_when_asked_to_end(self):
        job = self.submit(MODEL=MODEL, SHARDS=2)
        address, key = self.wait_until_serving()
        self.assertEqual((self.state / "endpoint").stat().st_mode & 0o077, 0, "it holds a key")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            self.ask(address, "")
        self.assertEqual(refused.exception.code, 401)
        self.ask(address, key)
        self.drain(job)
        self.assertIn("generation 1: draining", self.log("worker"))
        self.assertIn("2 shard(s)", self.log("worker"))
        self.assertIn("stopping", self.log("kvstore"))

    def test_a_job_that_cannot_serve_fails_and_says_where_to_look(self):
        job = self.submit(MODEL="/nonexistent")
        self.assertEqual(self.wait_for_end(job), "FAILED")
        self.assertIn("logs are in", pathlib.Path(self.slurm.directory, "job.out").read_text(encoding="utf-8"))

    def test_nodes_that_do_not_divide_are_refused(self):
        job = self.submit(MODEL=MODEL, NODES_PER_WORKER=2)
        self.assertEqual(self.wait_for_end(job), "FAILED")
        self.assertIn("does not divide 1 nodes",
                      pathlib.Path(self.slurm.directory, "job.out").read_text(encoding="utf-8"))


class TwoNodes(SlurmTest, unittest.TestCase):
    """Over srun; the nodes are network namespaces."""

    @classmethod
    def setUpClass(cls):
        cls.make_slurm(2)

    def test_one_worker_spans_both_nodes_and_comes_back_when_a_shard_of_either_dies(self):
        job = self.submit(MODEL=MODEL, SHARDS=1)
        address, key = self.wait_until_serving()
        answer = self.ask(address, key)
        self.assertIn("generation 1: started 2 shard(s)", self.log("worker"))
        self.assertIn("on host0, host1", self.log("worker"))
        self.assertEqual(len(list(self.state.glob("kvstore-*.log"))), 2)

        for generation, host in ((2, "host1"), (3, "host0")):
            victim, = [pid for pid in self.shards() if self.host_of(pid) == host]
            os.kill(victim, signal.SIGKILL)
            serving = f"generation {generation}: serving"
            wait_until(lambda text=serving: text in self.log("worker"), self.logs)
            self.assertEqual(self.ask(address, key), answer)
            # A shard that was killed may take a moment to go.
            wait_until(lambda: sorted(self.host_of(pid) for pid in self.shards()) == ["host0", "host1"], self.logs)
        self.drain(job)
        self.assertIn("generation 3: draining", self.log("worker"))
        self.assertEqual(self.shards(), [])

    def test_a_worker_on_each_node(self):
        job = self.submit(MODEL=MODEL, NODES_PER_WORKER=1)
        address, key = self.wait_until_serving()
        self.ask(address, key)
        self.assertEqual(len(list(self.state.glob("worker-*.log"))), 2)
        self.drain(job)

    def shards(self):
        """Process numbers of this job's shards."""
        pids = [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if self.read(pid, "comm") == "longshelf-shard\n" and
                f"LONGSHELF_TOKEN_FILE={self.state}/token" in self.read(pid, "environ").split("\0")]

    def host_of(self, pid):
        return re.search(r"(?:^|\0)SLURMD_NODENAME=(\w*)", self.read(pid, "environ")).group(1)

    @staticmethod
    def read(pid, name):
        try:
            return pathlib.Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
