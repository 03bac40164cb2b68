"""A real router over a worker that answers as a script says, and keys."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from cluster import environment, free_ports

KEY = "sk-scripted"


class ScriptedCluster:
    """url, and turns(): one dictionary for each prompt with tools that the worker got; see scripted_worker.cc."""

    def __init__(self, build_dir, model, answers):
        self.dir = tempfile.TemporaryDirectory(prefix="longshelf-scripted-")
        script, keys = os.path.join(self.dir.name, "script"), os.path.join(self.dir.name, "keys")
        with open(script, "w", encoding="utf-8") as file:
            file.write("\n=====\n".join(answers))
        with open(keys, "w", encoding="utf-8") as file:
            file.write(f"tester:{KEY}\n")
        worker_port, http_port, grpc_port, admin_port = free_ports(4)
        self.log_path = os.path.join(self.dir.name, "worker.log")
        with open(self.log_path, "wb") as log, open(os.path.join(self.dir.name, "router.log"), "wb") as router_log:
            self.worker = subprocess.Popen([os.path.join(build_dir, "tests", "scripted_worker"),
                                            f"127.0.0.1:{worker_port}", model, script], stdout=log, env=environment())
            self.router = subprocess.Popen(
                [os.path.join(build_dir, "bin", "longshelf-router"), f"--model={model}", "--model-name=demo",
                 f"--workers=127.0.0.1:{worker_port}", f"--listen=127.0.0.1:{http_port}",
                 f"--grpc-listen=127.0.0.1:{grpc_port}", f"--admin-listen=127.0.0.1:{admin_port}", f"--api-keys={keys}"],
                stdout=router_log, stderr=router_log, env=environment())
        self.url = f"http://127.0.0.1:{http_port}"

    def __enter__(self):
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(self.url + "/readyz", timeout=5)
                return self
            assert time.monotonic() < deadline and self.router.poll() is None, self.logs()
            time.sleep(0.05)

    def __exit__(self, *exception):
        for process in (self.router, self.worker):
            process.kill()
            process.wait()
        self.dir.cleanup()

    def turns(self):
        with open(self.log_path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def logs(self):
        with open(os.path.join(self.dir.name, "router.log"), encoding="utf-8") as file:
            return file.read()[-4000:]


def call(name, **arguments):
    """One tool call as the model writes it."""
    parameters = "\n".join(
        f'<｜DSML｜parameter name="{key}" string="{str(isinstance(value, str)).lower()}">'
        f'{value if isinstance(value, str) else json.dumps(value)}</｜DSML｜parameter>'
        for key, value in arguments.items())
    return f'<｜DSML｜invoke name="{name}">\n{parameters}\n</｜DSML｜invoke>'


def calls(text, *each):
    return text + "\n\n<｜DSML｜tool_calls>\n" + "\n".join(each) + "\n</｜DSML｜tool_calls>"
