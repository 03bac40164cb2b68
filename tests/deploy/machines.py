"""Machines that are network namespaces of this one, with host names that all of them resolve. Needs root."""

import os
import pathlib
import subprocess


def _ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


class Machines:
    """HOST0, HOST1, ... on a bridge where this process has an address too. `number`: among this process's sets."""

    def __init__(self, n, directory, number=0):
        # Not the numbers that tests/worker/net_hosts.cc gives out.
        self.id = (os.getpid() + 7919 * number) % 16000
        self.subnet = f"10.{128 + self.id // 250}.{1 + self.id % 250}"
        self.names = [f"host{i}" for i in range(n)]
        self.hosts_file = pathlib.Path(directory, "hosts")
        lines = [f"{self.address(i)} {name}" for i, name in enumerate(self.names)]
        self.hosts_file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]), encoding="utf-8")

    def address(self, i):
        return f"{self.subnet}.{i + 1}"

    @property
    def own_address(self):
        return f"{self.subnet}.254"

    def start(self):
        """Why they cannot be made; empty when they are there."""
        bridge = f"lm{self.id}"
        steps = [f"link add {bridge} type bridge", f"addr add {self.own_address}/24 dev {bridge}",
                 f"link set {bridge} up"]
        for i in range(len(self.names)):
            space, outer = f"{bridge}-{i}", f"{bridge}v{i}"
            steps += [f"netns add {space}", f"link add {outer} type veth peer name eth0 netns {space}",
                      f"link set {outer} master {bridge} up", f"-n {space} link set lo up",
                      f"-n {space} addr add {self.address(i)}/24 dev eth0", f"-n {space} link set eth0 up"]
        for step in steps:
            if _ip(*step.split()).returncode != 0:
                return f"this machine does not let us make network namespaces: ip {step}"
        return ""

    def slow_down(self, rate):
        """Why their interfaces cannot be made to send no more than `rate`; empty when they do."""
        for i in range(len(self.names)):
            line = f"tc -n lm{self.id}-{i} qdisc add dev eth0 root tbf rate {rate} burst 256kb latency 50ms".split()
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return f"{' '.join(line)}: {done.stderr}"
        return ""

    def stop(self):
        for i in range(len(self.names)):
            _ip("link", "del", f"lm{self.id}v{i}")
            _ip("netns", "del", f"lm{self.id}-{i}")
        _ip("link", "del", f"lm{self.id}")

    def on(self, i, *argv):
        """That command, as run on a machine."""
        steps = f"hostname {self.names[i]}; mount --bind {self.hosts_file} /etc/hosts; exec \"$@\""
        return ["ip", "netns", "exec", f"lm{self.id}-{i}", "unshare", "--uts", "sh", "-c", steps, "sh", *argv]
