"""What the agents of these tests are told, and what the scripted model calls: 20 turns, of tools that work on files.

The clients see TASK only; the calls come to them from the model, as text in its own form, through the router."""

import json

from scripted import call, calls


def _tool(name, description, required, **properties):
    return {"name": name, "description": description,
            "parameters": {"type": "object", "properties": properties, "required": required}}


STRING, NUMBER = {"type": "string"}, {"type": "number"}
TASK = {
    "system": "You work on the files of a folder. Use the tools.",
    "prompt": "Prepare the notes, and say when all is done. Mind the quotes: \"so\" and 'so'.",
    "tools": [
        _tool("write_file", "Writes a whole file.", ["path", "content"], path=STRING, content=STRING),
        _tool("edit_file", "Replaces a text in a file.", ["path", "old_text", "new_text"], path=STRING, old_text=STRING,
              new_text=STRING, all={"type": "boolean"}),
        _tool("run_command", "Runs a shell command and tells what it prints.", ["command"], command=STRING,
              timeout_s=NUMBER),
        _tool("add_numbers", "Adds numbers.", ["numbers"], numbers={"type": "array", "items": NUMBER}),
        _tool("record", "Appends a record to records.jsonl.", ["entry"], entry={"type": "object"}),
        _tool("list_files", "Lists the files.", []),
    ],
    # In these turns a client writes the arguments that it sends back anew, with their members in reverse. In the turn
    # `reloaded` it does so with all that was said before, as one does that keeps its conversations in a database.
    "reordered": [3, 8],
    "reloaded": 15,
}

LONG = "\n".join(f"{n}. „Zeile“ № {n}:\t{'ab' * (n % 7)} — 100 % <b>&amp;</b>" for n in range(1, 25)) + "\n"
SCRIPT = 'import sys\n\ndef main(args):\n    """Greets."""\n    print(f"hello {args[0]!r}", file=sys.stderr)\n\n\nmain(sys.argv[1:])\n'

# Each a turn: what the model says, and its calls.
TURNS = [
    ("I look around.", [("list_files", {})]),
    ("A first note.", [("write_file", {"path": "notes.txt", "content": 'He said "no", she said \'yes\'.\nline two\n'})]),
    ("Then a script.", [("write_file", {"path": "greet.py", "content": SCRIPT})]),
    ("I try it.", [("run_command", {"command": "python3 greet.py 'a \"b\" c' 2>&1 | tail -n 1 && echo $?", "timeout_s": 30})]),
    ("", [("edit_file", {"path": "greet.py", "old_text": 'f"hello {args[0]!r}"', "new_text": "'hello\\t' + args[0]"})]),
    ("Once more.", [("run_command", {"command": "python3 greet.py wörld 2>&1; ls /nowhere 2>/dev/null || echo \"none\"", "timeout_s": 30})]),
    ("Sums.", [("add_numbers", {"numbers": [1, -2, 3.5, 0.25, 1000000007]})]),
    ("A record, with members in it.", [("record", {"entry": {
        "name": "Zoë", "tags": ["a\"b", "c\\d", "e\nf", ""], "nested": {"z": None, "a": [True, False, {"深": "度"}], "m": {}},
        "price": 12.5, "count": 9007199254740991, "empty": []}})]),
    ("Two at once:", [("write_file", {"path": "naïve – файл.txt", "content": "日本語, ελληνικά, 🙂🚀, e\u0301\n"}),
                      ("add_numbers", {"numbers": [0.1, 0.2]})]),
    ("This one cannot succeed.", [("edit_file", {"path": "notes.txt", "old_text": "not in there", "new_text": "x", "all": True})]),
    ("This one does.", [("edit_file", {"path": "notes.txt", "old_text": "line", "new_text": "«row» & <tag attr='1'>", "all": True})]),
    ("A long one.\n\nIt has lines.", [("write_file", {"path": "long.txt", "content": LONG})]),
    ("JSON that is a text:", [("write_file", {"path": "config.json", "content": '{"a": [1, 2, {"b": "c"}], "on": true}'})]),
    ("", [("write_file", {"path": "blank", "content": ""})]),
    ("White space counts.", [("write_file", {"path": "space.txt", "content": "  indented\n\n\n\ttab \r\nlast  "})]),
    ("Counting.", [("run_command", {"command": "wc -l long.txt | awk '{print $1}'; grep -c '№ 1' long.txt"})]),
    ("", [("run_command", {"command": "cat <<'EOF' > here.txt\n$HOME is \"not\" expanded\nEOF\ncat here.txt", "timeout_s": 7.5})]),
    ("Texts that look like something else.", [("record", {"entry": {"yes": "true", "none": "null", "one": "1", "list": "[1]"}})]),
    ("", [("write_file", {"path": "null.txt", "content": "null"})]),
    ("A last look.", [("list_files", {})]),
]
FINAL = "All is done: 20 turns, „quoted“, with `code` and a last line.\n\n- ünïcödé 🙂"


def answers():
    """What the model writes, by the number of results that are in its prompt."""
    texts = []
    for text, each in TURNS:
        texts.append(calls(text, *(call(name, **arguments) for name, arguments in each)))
        # Results of calls that were made together come together.
        texts += ["It asks too early."] * (len(each) - 1)
    # The model writes JSON in its own way; call() escapes what is not ASCII, too.
    texts[6] = texts[6].replace("[1, -2, 3.5, 0.25, 1000000007]", "[1,-2.0, 3.50,2.5E-1, 1000000007]")
    return texts + [FINAL]


def check(name, said, folder, turns):
    """`said`: what a client reports; `folder`: where its tools worked; `turns`: what the worker saw of it."""
    made = [[(c["name"], c["arguments"]) for c in turn] for turn in said["calls"]]
    assert len(made) == len(TURNS) == 20, (name, len(made), said)
    for n, (got, (_, want)) in enumerate(zip(made, TURNS)):
        # The order of the members counts, too.
        got = [(tool, json.loads(arguments, object_pairs_hook=list)) for tool, arguments in got]
        want = [(tool, json.loads(json.dumps(arguments), object_pairs_hook=list)) for tool, arguments in want]
        assert got == want, (name, n, got, want)
    assert said["text"] == FINAL, (name, said["text"])
    assert [turn["turn"] for turn in turns] == _results(), (name, turns)
    # What the client was told of each prompt is what the worker read.
    assert [usage["input"] for usage in said["usage"]] == [turn["tokens"] for turn in turns], (name, said["usage"], turns)
    assert all(usage["output"] > 5 for usage in said["usage"]), (name, said["usage"])
    if "thoughts" in said:
        assert said["thoughts"] == ["I know what to do."] * 21, (name, said["thoughts"])
    # A long text arrives in many pieces.
    assert max(said["pieces"]) > 20 and sum(n > 1 for n in said["pieces"]) >= 15, (name, said["pieces"])
    # Each prompt has the one before and what the model wrote, token by token, whatever the client made of it.
    for turn in turns[1:]:
        assert turn["kept"] == turn["written"] and turn["shared"] == turn["last"], (name, turns)
    _check_files(name, folder)


def _results():
    counts = [0]
    for _, each in TURNS:
        counts.append(counts[-1] + len(each))
    return counts


def _check_files(name, folder):
    def text(path):
        with open(folder / path, encoding="utf-8", newline="") as file:
            return file.read()

    written = {arguments["path"]: arguments["content"] for _, each in TURNS for tool, arguments in each if tool == "write_file"}
    written["notes.txt"] = written["notes.txt"].replace("line", "«row» & <tag attr='1'>")
    written["greet.py"] = written["greet.py"].replace('f"hello {args[0]!r}"', "'hello\\t' + args[0]")
    written["here.txt"] = '$HOME is "not" expanded\n'
    records = [json.loads(line) for line in text("records.jsonl").splitlines()]
    assert records == [arguments["entry"] for _, each in TURNS for tool, arguments in each if tool == "record"], (name, records)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*written, "records.jsonl"]), name
    for path, content in written.items():
        assert text(path) == content, (name, path, text(path), content)
