"""The tools of the agents in Python. Each works in the folder where the client runs; what they return goes to the model."""

import json
import os
import subprocess


def write_file(path, content):
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(content)
    return f"wrote {len(content)} characters"


def edit_file(path, old_text, new_text, all=False):
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    if old_text not in text:
        raise ValueError(f"{path} has no {old_text!r}")
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text.replace(old_text, new_text, -1 if all else 1))
    return "edited"


def run_command(command, timeout_s=30):
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=timeout_s)
    return f"{done.stdout}(exit code {done.returncode})"


def add_numbers(numbers):
    return str(sum(numbers))


def record(entry):
    with open("records.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return "recorded"


def list_files():
    return "\n".join(sorted(os.listdir("."))) or "(none)"


TOOLS = {function.__name__: function for function in (write_file, edit_file, run_command, add_numbers, record, list_files)}


def run(name, arguments):
    """(text, whether it failed)."""
    try:
        return TOOLS[name](**arguments), False
    except Exception as error:
        return f"error: {error}", True
