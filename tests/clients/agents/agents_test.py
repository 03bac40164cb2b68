"""Agents of one language hold 20 turns of tools each, against one real router with scripted answers.

Usage: agents_test.py pypi|npm BUILD MODEL CACHE [CLIENT...]. Exit code 77 (skipped): the packages could not be fetched."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import fetched  # noqa: E402
import task  # noqa: E402
from cluster import environment  # noqa: E402
from scripted import KEY, ScriptedCluster  # noqa: E402

CLIENTS = {"pypi": ["openai_chat", "openai_responses", "anthropic_messages", "litellm_completion", "langchain_chat"],
           "npm": ["openai_chat", "openai_responses", "anthropic_messages", "ai_sdk", "grpc_chat"]}

registry, build, model, cache = sys.argv[1:5]
if registry == "pypi":
    python = fetched.python(os.path.join(cache, "agents"), os.path.join(HERE, "requirements.txt"))
    commands = {name: [python, os.path.join(HERE, name + ".py")] for name in CLIENTS[registry]}
else:
    directory = fetched.node(os.path.join(cache, "agents-node"), os.path.join(HERE, "npm"))
    # Imports are resolved from where a script lies.
    for name in os.listdir(os.path.join(HERE, "npm")):
        if name.endswith(".mjs"):
            shutil.copy(os.path.join(HERE, "npm", name), directory)
    commands = {name: ["node", os.path.join(directory, name + ".mjs")] for name in CLIENTS[registry]}

with tempfile.TemporaryDirectory(prefix="longshelf-agents-") as home, \
        ScriptedCluster(build, model, task.answers()) as cluster:
    task_path = os.path.join(home, "task.json")
    with open(task_path, "w", encoding="utf-8") as file:
        json.dump(task.TASK, file)
    for name in sys.argv[5:] or CLIENTS[registry]:
        folder, report = pathlib.Path(home, name), os.path.join(home, name + ".json")
        folder.mkdir()
        n_seen, began = len(cluster.turns()), time.monotonic()
        done = subprocess.run(
            commands[name], cwd=folder, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
            env={**environment(), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "LONGSHELF_URL": cluster.url,
                 "LONGSHELF_GRPC": cluster.grpc_address, "LONGSHELF_PROTO": os.path.join(HERE, "../../../proto"),
                 "LONGSHELF_KEY": KEY, "LONGSHELF_TASK": task_path, "LONGSHELF_REPORT": report,
                 "PYTHONDONTWRITEBYTECODE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false"})
        assert done.returncode == 0, (name, done.stdout[-3000:], done.stderr[-6000:], cluster.logs())
        with open(report, encoding="utf-8") as file:
            said = json.load(file)
        turns = cluster.turns()[n_seen:]
        task.check(name, said, folder, turns)
        print(f"{registry} {name}: {len(said['calls'])} turns, {turns[-1]['tokens']} prompt tokens at the end,",
              f"{time.monotonic() - began:.1f} s", flush=True)
