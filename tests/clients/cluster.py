"""A local longshelf cluster for tests: the real binaries on free loopback ports, stopped whatever happens."""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 15


def free_ports(n):
    """n ports that were free a moment ago; all held open until each is known."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("LONGSHELF_")}


class Process:
    def __init__(self, name, args, log_dir):
        self.name = name
        self.args = args
        self.log_path = os.path.join(log_dir, name + ".log")
        self.start()

    def start(self):
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(self.args, stdout=log, stderr=log, env=environment(), start_new_session=True)

    def alive(self):
        return self.popen.poll() is None

    def stop(self):
        if not self.alive():
            return self.popen.returncode
        self.popen.terminate()
        try:
            return self.popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def descendants(self, name):
        """Process ids called `name` below this process."""
        parents, names = {}, {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
                before, _, after = file.read().rpartition(")")
                names[int(pid)] = before.partition("(")[2]
                parents[int(pid)] = int(after.split()[1])
        found = []
        for pid, own_name in names.items():
            ancestor = pid
            while ancestor in parents and ancestor != self.popen.pid:
                ancestor = parents[ancestor]
            if ancestor == self.popen.pid and own_name == name[:15]:
                found.append(pid)
        return sorted(found)

    def kill(self):
        """SIGKILL to the process and to everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


class Cluster:
    """One router, n_workers workers of `shards` processes each, and n_stores KV stores."""

    def __init__(self, bin_dir, model, n_workers=1, shards=1, kvstore=True, router_flags=(), worker_flags=(),
                 kvstore_flags=(), n_stores=1, disk_size=None):
        self.bin_dir = bin_dir
        self.dir = tempfile.TemporaryDirectory(prefix="longshelf-cluster-")
        self.processes = []
        atexit.register(self.stop)
        ports = free_ports(3 + 2 * n_stores + 2 * n_workers)
        self.http_port, self.grpc_port, self.router_admin = ports[:3]
        store_ports, self.store_admins, ports = ports[3:3 + n_stores], ports[3 + n_stores:][:n_stores], ports[3 + 2 * n_stores:]
        worker_ports, self.worker_admins = ports[:n_workers], ports[n_workers:]
        common = ["--log-format=json"]
        self.kvstores, store = [], []
        if kvstore:
            addresses = ",".join(f"127.0.0.1:{port}" for port in store_ports)
            peers = [f"--peers={addresses}"] if n_stores > 1 else []
            for i, (port, admin) in enumerate(zip(store_ports, self.store_admins)):
                disk = [f"--disk={self.dir.name}/kvstore{i}", f"--disk-size={disk_size}"] if disk_size else []
                self.kvstores.append(self._start(
                    f"kvstore{i}", "longshelf-kvstore",
                    [f"--listen=127.0.0.1:{port}", f"--admin-listen=127.0.0.1:{admin}"] + peers + disk + common + list(kvstore_flags)))
            store = [f"--kvstore={addresses}"]
        self.workers = []
        for i in range(n_workers):
            self.workers.append(self._start(
                f"worker{i}", "longshelf-worker",
                [f"--model={model}", f"--listen=127.0.0.1:{worker_ports[i]}", f"--shards={shards}",
                 f"--admin-listen=127.0.0.1:{self.worker_admins[i]}", f"--worker-id=w{i}"] + store + common + list(worker_flags)))
        self.router = self._start(
            "router", "longshelf-router",
            [f"--model={model}", "--workers=" + ",".join(f"127.0.0.1:{p}" for p in worker_ports),
             f"--listen=127.0.0.1:{self.http_port}", f"--grpc-listen=127.0.0.1:{self.grpc_port}",
             f"--admin-listen=127.0.0.1:{self.router_admin}"] + store + common + list(router_flags))
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.wait_ready(n_workers)

    def _start(self, name, binary, args, around=()):
        """`around`: words that run the rest of the line somewhere else."""
        process = Process(name, [*around, os.path.join(self.bin_dir, binary)] + args, self.dir.name)
        self.processes.append(process)
        return process

    def metric(self, prefix):
        """Sum of the router's samples whose name and labels start with `prefix`."""
        return self._metrics(self.router_admin)(prefix)

    def worker_metric(self, i, prefix):
        """The same of worker i."""
        return self.worker_metrics(i)(prefix)

    def worker_metrics(self, i):
        """All of worker i's samples at one moment, as a function like metric()."""
        return self._metrics(self.worker_admins[i])

    def store_metrics(self, i):
        """The same of store i."""
        return self._metrics(self.store_admins[i])

    @classmethod
    def _metrics(cls, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            return cls._samples(reply.read().decode())

    @staticmethod
    def _samples(text):
        lines = text.splitlines()
        return lambda prefix: sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(prefix))

    def wait_until(self, is_true, what_else):
        """Fails with `what_else` when it is still false after a while."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not is_true():
            if time.monotonic() >= deadline:
                self.fail(what_else)
            time.sleep(0.05)

    def wait_ready(self, n_workers):
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            for process in self.processes:
                if not process.alive():
                    self.fail(f"{process.name} exited with {process.popen.returncode}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                if self.metric("longshelf_router_worker_up{") >= n_workers:
                    return
            time.sleep(0.05)
        self.fail(f"not ready within {READY_TIMEOUT_S} s")

    def fail(self, why):
        for process in self.processes:
            with open(process.log_path, errors="replace") as log:
                sys.stderr.write(f"---- {process.name}\n" + "".join(log.readlines()[-20:]))
        self.stop()
        raise RuntimeError(why)

    def stop(self):
        """Exit codes by name, in the order of the way a request takes."""
        codes = {}
        for process in reversed(self.processes):
            codes[process.name] = process.stop()
        self.processes = []
        atexit.unregister(self.stop)
        self.dir.cleanup()
        return codes

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()
