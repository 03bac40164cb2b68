"""Runs one foreign client against a real cluster with API keys.

Usage: client_test.py openai-python|openai-node|grpc-python|curl BINARIES MODEL CACHE
CACHE keeps the virtual environment and node_modules between runs. Exit code 77 (skipped): a client could not be
fetched here."""

import os
import shutil
import subprocess
import sys
import tempfile

import fetched
from cluster import Cluster, environment

kind, bin_dir, model, cache = sys.argv[1:5]
here = fetched.HERE


def python():
    return fetched.python(cache)


def node():
    directory = fetched.node(os.path.join(cache, "node"), os.path.join(here, "node"))
    # Imports are resolved from where the script lies.
    return ["node", shutil.copy(os.path.join(here, "node", "openai_test.mjs"), directory)]


commands = {"openai-python": lambda: [python(), os.path.join(here, "openai_python_test.py")],
            "grpc-python": lambda: [python(), os.path.join(here, "grpc_python_test.py")],
            "openai-node": node,
            "curl": lambda: ["bash", os.path.join(here, "curl_test.sh")]}
command = commands[kind]()
key = "sk-client-test"
with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
    keys.write(f"tester:{key}\n")
    keys.flush()
    with Cluster(bin_dir, model, router_flags=[f"--api-keys={keys.name}", "--model-name=demo",
                                                   "--keep-alive-interval=100ms"]) as cluster:
        result = subprocess.run(command, timeout=300, env={
            **environment(), "LONGSHELF_URL": cluster.url, "LONGSHELF_GRPC": f"127.0.0.1:{cluster.grpc_port}",
            "LONGSHELF_KEY": key, "LONGSHELF_MODEL": "demo"})
sys.exit(result.returncode)
