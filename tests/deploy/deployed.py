"""What the files of deploy/ and the pages about it tell the programs: flags and variables, and in which file."""

import pathlib
import re
from collections import namedtuple

import yaml

Told = namedtuple("Told", "path program flag")  # flag: "--memory" or "LONGSHELF_MEMORY"; program may be ""

PROGRAM = r"longshelf(?:-(?:host|kvstore|router|shard|worker))?"
FLAG = r"--[a-z][a-z0-9-]*"


def pages_of(tree):
    """The files that this is about, by their path in the tree."""
    paths = [p for p in sorted((tree / "deploy").rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    return [*paths, *(tree / page for page in ("docs/deploying.md", "docs/operating.md", "README.md"))]


def told_in_yaml(path, text):
    """Arguments in lists: command and args of a container, command of a service of Compose."""
    for document in yaml.safe_load_all(re.sub(r"@(\w+)@", r"\1", text)):
        yield from told_in_value(path, document)


def told_in_value(path, value):
    if isinstance(value, list):
        for item in value:
            yield from told_in_value(path, item)
    if not isinstance(value, dict):
        return
    words = [word for key in ("command", "args") if isinstance(value.get(key), list) for word in value[key]]
    if words and re.fullmatch(PROGRAM, str(words[0])):
        for word in words[1:]:
            if str(word).startswith("--"):
                yield Told(path, words[0], word.partition("=")[0])
    for item in value.values():
        yield from told_in_value(path, item)


def told_in_lines(path, text):
    """A program and its flags on one line, which a backslash may continue."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.split("\n"):
        if re.match(r"\s*(kubectl|docker|sudo|apt-get|systemctl|journalctl)\b", line):
            continue  # the name of a namespace, an image, a package or a unit
        # Of `srun --overlap longshelf-worker --listen X && longshelf chat --url Y`, each program's own.
        parts = re.split(rf"(?:(?<=[\s/`\"'(\[])|^)({PROGRAM})(?=[\s\"'`])", line)
        for program, rest in zip(parts[1::2], parts[2::2]):
            words = rest.split("`")[0] if "`" in rest else rest
            for flag in re.findall(rf"(?<![\w-]){FLAG}", re.split(r"[|;&]", words)[0]):
                yield Told(path, command_of(program, words), flag)


def command_of(program, rest):
    """"longshelf" with its command: one word or two."""
    if program != "longshelf":
        return program
    words = re.findall(r"[a-z]+|\S+", rest.strip())[:2]
    return " ".join([program, *([words[0], words[1]] if words[:1] == ["model"] else words[:1])])


def told_in_variables(path, text):
    """LONGSHELF_MEMORY=..., wherever it is set or named."""
    unit = re.search(rf"({PROGRAM})\.service", path.name)
    for variable in re.findall(r"\bLONGSHELF_[A-Z][A-Z_]*\b(?!\()", text):
        yield Told(path, unit.group(1) if unit else "", variable)


def told_in(path, text):
    out = list(told_in_variables(path, text))
    if path.suffix in (".yaml", ".yml"):
        out += told_in_yaml(path, text)
    elif path.suffix not in (".py", ".cmake", ".txt", ".svg"):
        out += told_in_lines(path, text)
    return out
