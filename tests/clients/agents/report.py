"""What a Python agent is told and reports: LONGSHELF_TASK and LONGSHELF_REPORT are files of JSON."""

import json
import os

with open(os.environ["LONGSHELF_TASK"], encoding="utf-8") as file:
    TASK = json.load(file)
URL, KEY, MODEL = os.environ["LONGSHELF_URL"], os.environ["LONGSHELF_KEY"], "demo"
N_TURNS_MAX = 30


class Report:
    def __init__(self):
        self.said = {"calls": [], "text": None, "usage": [], "thoughts": [], "pieces": []}

    def turn(self, calls, text, input_tokens, output_tokens, thoughts, pieces):
        """`calls`: (name, arguments as JSON) of each; `pieces`: in how many each one's arguments came."""
        if calls:
            self.said["calls"].append([{"name": name, "arguments": arguments} for name, arguments in calls])
        self.said["text"] = text
        self.said["usage"].append({"input": input_tokens, "output": output_tokens})
        if thoughts is None:
            self.said.pop("thoughts", None)  # the package does not show them
        else:
            self.said["thoughts"].append(thoughts)
        self.said["pieces"] += pieces

    def write(self):
        with open(os.environ["LONGSHELF_REPORT"], "w", encoding="utf-8") as file:
            json.dump(self.said, file)


def reversed_members(value):
    """The same object, its members in reverse, at every depth."""
    if isinstance(value, dict):
        return {key: reversed_members(value[key]) for key in reversed(value)}
    return [reversed_members(each) for each in value] if isinstance(value, list) else value


def rewritten(arguments):
    """The same arguments as another serializer writes them."""
    return json.dumps(reversed_members(json.loads(arguments)), separators=(",", ":"))
