"""Claude Code edits a file through the real router, its answers scripted.

Usage: claude_code_test.py BUILD MODEL CACHE. Exit code 77 (skipped): it could not be fetched here."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import fetched
from cluster import environment
from scripted import KEY, ScriptedCluster, call, calls

build, model, cache = sys.argv[1:4]
directory = os.path.abspath(os.path.join(cache, "claude-code"))
lock = os.path.join(fetched.HERE, "claude_code", "package-lock.json")
fetched.fetch(directory, lock, [["cp", lock, os.path.join(fetched.HERE, "claude_code", "package.json"), "."],
                                ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]])

with tempfile.TemporaryDirectory(prefix="longshelf-claude-") as home:
    work = os.path.join(home, "work")
    os.mkdir(work)
    path = os.path.join(work, "greeting.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("hello world\nsecond line\n")
    answers = [calls("I read it first.", call("Read", file_path=path)),
               calls("Now the edit.", call("Edit", file_path=path, old_string="hello world", new_string='good "bye" & <all>\n\ttwo')),
               calls("And a list.", call("Bash", command="ls -1", description="List files")),
               "The greeting is changed."]
    with ScriptedCluster(build, model, answers) as cluster:
        result = subprocess.run(
            [os.path.join(directory, "node_modules", ".bin", "claude"), "-p", "Change the greeting in greeting.txt",
             "--output-format", "json", "--allowedTools", "Read,Edit,Bash", "--permission-mode", "acceptEdits"],
            cwd=work, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL,
            env={**environment(), "HOME": home, "ANTHROPIC_BASE_URL": cluster.url, "ANTHROPIC_AUTH_TOKEN": KEY,
                 "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "NO_PROXY": "127.0.0.1",
                 "API_TIMEOUT_MS": "60000"})
        assert result.returncode == 0, (result.stdout[-3000:], result.stderr[-3000:], cluster.logs())
        said = json.loads(result.stdout)
        turns = cluster.turns()
    with open(path, encoding="utf-8") as file:
        content = file.read()

assert said["result"] == "The greeting is changed." and not said["is_error"], said
assert content == 'good "bye" & <all>\n\ttwo\nsecond line\n', content
assert [turn["turn"] for turn in turns] == [0, 1, 2, 3], turns
# Each prompt begins with the one before, but for what the client itself changes at its end.
for turn in turns[1:]:
    assert turn["shared"] >= 0.99 * turn["last"], turns
print("claude code: file edited,", turns[-1]["tokens"], "prompt tokens at the end")
shutil.rmtree(os.path.join(home), ignore_errors=True)
