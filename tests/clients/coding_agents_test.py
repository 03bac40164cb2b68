"""A coding agent works on files for 20 turns through the real router, its answers scripted.

Usage: coding_agents_test.py claude-code|opencode BUILD MODEL CACHE. Exit code 77 (skipped): it could not be fetched."""

import json
import os
import subprocess
import sys
import tempfile

import fetched
from cluster import environment
from scripted import KEY, ScriptedCluster, call, calls

SCRIPT = 'import sys\n\n\ndef main(args):\n    """Greets."""\n    print(f"hello {args[0]!r}", file=sys.stderr)\n\n\nmain(sys.argv[1:])\n'
LONG = "\n".join(f"{n}. „Zeile“ № {n}:\t{'ab' * (n % 7)} — 100 % <b>&amp;</b>" for n in range(1, 30)) + "\n"
# Each a turn; a path is one in the agent's folder.
TURNS = [
    [("read", "greeting.txt")],
    [("edit", "greeting.txt", "hello world", 'good "bye" & <all>\n\ttwo')],
    [("bash", "ls -1 2>&1")],
    [("write", "greet.py", SCRIPT)],
    [("bash", "python3 greet.py 'a \"b\" c' 2>&1 | tail -n 1")],
    [("edit", "greet.py", 'f"hello {args[0]!r}"', "'hello\\t' + args[0]")],
    [("bash", "python3 greet.py wörld 2>&1")],
    [("write", "naïve.txt", "日本語, ελληνικά, 🙂🚀\n")],
    [("read", "naïve.txt")],
    [("edit", "naïve.txt", "not in there", "x")],  # cannot succeed
    [("edit", "naïve.txt", "ελληνικά, 🙂", "русский <tag attr='1'>")],
    [("write", "long.txt", LONG)],
    [("bash", "wc -l long.txt; grep -c '№ 1' long.txt")],
    [("write", "config.json", '{"a": [1, 2, {"b": "c\\n"}], "on": true}')],
    [("read", "config.json")],
    [("edit", "config.json", '"on": true', '"on": [false, null, 1.5]')],
    [("write", "deep/er/notes.md", "# Notes\n\n- `code`\n\n\n    indented\n")],
    [("bash", "cat deep/er/notes.md | head -n 1")],
    [("bash", "python3 -c 'import json; print(json.load(open(\"config.json\"))[\"on\"])'")],
    [("read", "greet.py"), ("bash", "ls -1 deep 2>&1")],
]
FINAL = "All is done: 20 turns, „quoted“, with `code`."
EXPECTED = {"greeting.txt": 'good "bye" & <all>\n\ttwo\nsecond line\n',
            "greet.py": SCRIPT.replace('f"hello {args[0]!r}"', "'hello\\t' + args[0]"),
            "naïve.txt": "日本語, русский <tag attr='1'>🚀\n", "long.txt": LONG,
            "config.json": '{"a": [1, 2, {"b": "c\\n"}], "on": [false, null, 1.5]}',
            "deep/er/notes.md": "# Notes\n\n- `code`\n\n\n    indented\n"}


def claude_code(directory, home, cluster):
    """(command, environment), and how to read what it prints."""
    command = [os.path.join(directory, "node_modules", ".bin", "claude"), "-p", "Change the greeting in greeting.txt",
               "--output-format", "stream-json", "--verbose", "--allowedTools", "Read,Edit,Write,Bash",
               "--permission-mode", "acceptEdits"]
    return command, {"ANTHROPIC_BASE_URL": cluster.url, "ANTHROPIC_AUTH_TOKEN": KEY, "DISABLE_AUTOUPDATER": "1",
                     "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "API_TIMEOUT_MS": "60000"}


def claude_code_said(events):
    # It fills in this default, and sends it back so.
    made = [(block["name"], {k: v for k, v in block["input"].items() if (k, v) != ("replace_all", False)})
            for event in events if event["type"] == "assistant"
            for block in event["message"]["content"] if block["type"] == "tool_use"]
    result = events[-1]
    assert not result["is_error"] and result["usage"]["output_tokens"] > 0, result
    return made, result["result"]


def opencode(directory, home, cluster):
    config = {"autoupdate": False, "share": "disabled", "permission": {"*": "allow"}, "model": "longshelf/demo",
              "small_model": "longshelf/demo", "provider": {"longshelf": {
                  "npm": "@ai-sdk/openai-compatible", "options": {"baseURL": cluster.url + "/v1", "apiKey": KEY},
                  "models": {"demo": {"tool_call": True, "reasoning": True, "limit": {"context": 1000000, "output": 32000}}}}}}
    path = os.path.join(home, "opencode.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    # The program that `opencode-ai` would choose among its packages; this one runs on every x86-64 processor.
    command = [os.path.join(directory, "node_modules", "opencode-linux-x64-baseline", "bin", "opencode"), "run",
               "--format", "json", "Change the greeting in greeting.txt"]
    return command, {"OPENCODE_CONFIG": path, "OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1",
                     "OPENCODE_DISABLE_LSP_DOWNLOAD": "1", "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1"}


def opencode_said(events):
    # Results of calls that were made together may be told in any order; ids are in that of the calls.
    parts = sorted((event["part"] for event in events), key=lambda part: part["id"])
    made = [(part["tool"], part["state"]["input"]) for part in parts if part["type"] == "tool"]
    steps = [part for part in parts if part["type"] == "step-finish"]
    assert all(step["tokens"]["input"] > 0 and step["tokens"]["output"] > 0 for step in steps), steps
    return made, [part["text"] for part in parts if part["type"] == "text"][-1]


# How to start an agent, how to read what it prints, where its package is, and how it names tools and arguments.
AGENTS = {
    "claude-code": (claude_code, claude_code_said, "claude_code", {
        "read": ("Read", "file_path"), "edit": ("Edit", "file_path", "old_string", "new_string"),
        "write": ("Write", "file_path", "content"), "bash": ("Bash", "command", "description")}),
    "opencode": (opencode, opencode_said, "opencode", {
        "read": ("read", "filePath"), "edit": ("edit", "filePath", "oldString", "newString"),
        "write": ("write", "filePath", "content"), "bash": ("bash", "command", "description")}),
}
kind, build, model, cache = sys.argv[1:5]
start, read_events, package, names = AGENTS[kind]
directory = fetched.node(os.path.join(cache, kind), os.path.join(fetched.HERE, package))

with tempfile.TemporaryDirectory(prefix="longshelf-coding-") as home:
    work = os.path.join(home, "work")
    os.mkdir(work)
    with open(os.path.join(work, "greeting.txt"), "w", encoding="utf-8") as file:
        file.write("hello world\nsecond line\n")

    def arguments(tool, first, *rest):
        values = (first, "Look") if tool == "bash" else (os.path.join(work, first), *rest)
        return dict(zip(names[tool][1:], values))

    wanted = [(names[each[0]][0], arguments(*each)) for turn in TURNS for each in turn]
    answers, results = [], [0]
    for n, turn in enumerate(TURNS):
        answers.append(calls(f"Step {n + 1}.", *(call(names[each[0]][0], **arguments(*each)) for each in turn)))
        answers += ["It asks too early."] * (len(turn) - 1)
        results.append(results[-1] + len(turn))
    with ScriptedCluster(build, model, answers + [FINAL]) as cluster:
        command, variables = start(directory, home, cluster)
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL,
                              env={**environment(), "HOME": home, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **variables})
        assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:], cluster.logs())
        made, text = read_events([json.loads(line) for line in done.stdout.splitlines()])
        turns = cluster.turns()
    for path, content in EXPECTED.items():
        with open(os.path.join(work, path), encoding="utf-8", newline="") as file:
            found = file.read()
        assert found == content, (path, found, done.stdout[-6000:])

assert [turn["turn"] for turn in turns] == results, turns
assert made == wanted, [each for each in zip(made, wanted) if each[0] != each[1]]
assert text == FINAL, text
# Each prompt begins with the one before, but for what the client itself changes at its end, and what the model wrote
# follows token by token: not where Claude Code fills in a default of its Edit.
for before, turn in zip(TURNS, turns[1:]):
    assert turn["shared"] >= 0.99 * turn["last"], turns
    if kind != "claude-code" or before[0][0] != "edit":
        assert turn["kept"] == turn["written"], turns
print(f"{kind}: {len(TURNS)} turns, {turns[-1]['tokens']} prompt tokens at the end, of what was written",
      sum(turn["written"] - turn["kept"] for turn in turns), "tokens were read again")
