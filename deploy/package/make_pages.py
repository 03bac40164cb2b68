#!/usr/bin/env python3
"""Writes man pages and bash completion from what the programs' own --help says, so that they cannot go stale.

Usage: make_pages.py DIRECTORY_OF_THE_PROGRAMS OUTPUT_DIRECTORY

OUTPUT/man/NAME.SECTION.gz and OUTPUT/completions/NAME for each program.
"""

import gzip
import os
import pathlib
import re
import subprocess
import sys
from collections import namedtuple

SERVERS = ["longshelf-host", "longshelf-kvstore", "longshelf-router", "longshelf-shard", "longshelf-worker"]
TOOL = "longshelf"
HELP_COLUMN = 36  # where --help puts descriptions

Option = namedtuple("Option", "names value text")  # ["-h", "--help"], "N=256", "what it does"
Group = namedtuple("Group", "title options")
Help = namedtuple("Help", "purpose usage groups")

EXIT_CODES = [("0", "Stopped as asked, or done."),
              ("1", "It ran and the answer is no; a worker that gives up after --failed-starts-max starts."),
              ("64", "A wrong flag."),
              ("69", "Something needed is not there: a port is taken, a peer is unreachable."),
              ("70", "A shard whose group broke."),
              ("71", "The system gave no more memory, threads or descriptors."),
              ("78", "A wrong configuration.")]


def ask(program, *args):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LONGSHELF_") and k != "TMPDIR"}
    text = subprocess.run([program, *args], check=True, capture_output=True, text=True, env=environment).stdout
    # Defaults that depend on where and by whom this is run.
    text = text.replace(str(pathlib.Path(program).parent) + "/", "")
    return text.replace(f"longshelf-{os.geteuid()}", "longshelf-UID")


def parse_help(text):
    lines = text.split("\n")
    usage = next(i for i, line in enumerate(lines) if line.startswith("Usage: "))
    groups = []
    i = usage + 1
    while i < len(lines):
        line = lines[i]
        if re.fullmatch(r"\S.*:", line):
            groups.append(Group(line[:-1], []))
        elif re.match(r"  \S", line):
            head, words = line[:HELP_COLUMN].strip(), [line[HELP_COLUMN:]]
            if i + 1 < len(lines) and lines[i + 1].startswith(" " * HELP_COLUMN):
                head, words = line.strip(), []
            while i + 1 < len(lines) and lines[i + 1].startswith(" " * HELP_COLUMN):
                i += 1
                words.append(lines[i].strip())
            names, _, value = head.partition(" ")
            groups[-1].options.append(Option(names.split(","), value, " ".join(words).strip()))
        i += 1
    return Help(" ".join(lines[:usage]).strip(), lines[usage].removeprefix("Usage: "), groups)


def commands_of(tool):
    """[("model info", "shapes, ..."), ...]"""
    return re.findall(r"^  (\S+(?: \S+)?)  +(\S.*)$", ask(tool, "help"), re.M)


# Man pages.

def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\\&" + text if text.startswith((".", "'")) else text


def options_section(groups):
    out = []
    for group in groups:
        out.append(f".SS {roff(group.title)}")
        for option in group.options:
            text, _, variable = option.text.rpartition(" [LONGSHELF_")
            text = text if variable else option.text
            names = ", ".join(f"\\fB{roff(name)}\\fR" for name in option.names)
            sentence = text[:1].upper() + text[1:] + "."
            out += [".TP", f"{names} {roff(option.value)}".strip(), roff(sentence)]
            if variable:
                out.append(f"Also \\fBLONGSHELF_{variable[:-1]}\\fR.")
    return out


def closing_sections(see_also):
    out = [".SH ENVIRONMENT", "Every option is also an environment variable and a key of the YAML file that",
           "\\fB\\-\\-config\\fR names; a flag has more say than a variable, and that more than the file.",
           ".SH EXIT STATUS"]
    for code, meaning in EXIT_CODES:
        out += [".TP", f"\\fB{code}\\fR", roff(meaning)]
    others = [name for name in see_also if name]
    return out + [".SH SEE ALSO", ",\n".join(f"\\fB{roff(n)}\\fR({section_of(n)})" for n in others)]


def section_of(program):
    return "1" if program == TOOL else "8"


def head_of(name, version, purpose):
    first, _, rest = purpose.partition(": ")
    return [f'.TH {name.upper()} {section_of(name)} "" "longshelf {version}" "longshelf"', ".SH NAME",
            f"{roff(name)} \\- {roff((rest or first).rstrip('.'))}"]


def server_page(name, version, help_text):
    out = head_of(name, version, help_text.purpose)
    out += [".SH SYNOPSIS", f"\\fB{roff(name)}\\fR [\\fIOPTIONS\\fR]", ".SH DESCRIPTION", roff(help_text.purpose)]
    out += [".SH OPTIONS", *options_section(help_text.groups)]
    if name != "longshelf-shard":
        out += [".SH FILES", f"\\fI/etc/longshelf/{name.split('-')[1]}.yaml\\fR is what its systemd unit reads."]
    return out + closing_sections([n for n in [TOOL, *SERVERS] if n != name])


def tool_page(version, commands):
    out = head_of(TOOL, version, "serves DeepSeek-V4 from ordinary machines, and looks into its models")
    out += [".SH SYNOPSIS", "\\fBlongshelf\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]", ".SH COMMANDS"]
    for name, (summary, help_text) in commands.items():
        out += [".TP", f"\\fBlongshelf {roff(name)}\\fR", roff(summary[0].upper() + summary[1:] + ".")]
        if help_text.purpose:
            out += [roff(help_text.purpose)]
    for name, (_, help_text) in commands.items():
        out += [f".SH OPTIONS OF {roff(name.upper())}", *options_section(help_text.groups)]
    return out + closing_sections(SERVERS)


# Bash completion.

def words_of(groups):
    return [name for group in groups for option in group.options for name in option.names if name.startswith("-")]


def function_of(name):
    return "_" + re.sub(r"\W", "_", name)


def completion_cases(groups):
    """What may follow each flag that takes a value."""
    cases = []
    for option in (option for group in groups for option in group.options):
        kind = option.value.partition("=")[0]
        flags = "|".join(n for n in option.names if n.startswith("--"))
        if not kind or not flags:
            continue
        if "|" in kind:
            cases.append(f'    {flags}) COMPREPLY=($(compgen -W "{kind.replace("|", " ")}" -- "$cur")); return ;;')
        elif kind == "FILE" or re.search(r"director|file|program|launcher", option.text):
            cases.append(f'    {flags}) COMPREPLY=($(compgen -f -- "$cur")); return ;;')
        else:
            cases.append(f"    {flags}) return ;;")
    return cases


def completion_function(name, groups):
    return [f"{function_of(name)}() {{",
            '  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}',
            '  [ "$prev" = "=" ] && prev=${COMP_WORDS[COMP_CWORD-2]}',
            '  [ "$cur" = "=" ] && cur=""',
            '  case $prev in', *completion_cases(groups), "  esac",
            f'  COMPREPLY=($(compgen -W "{" ".join(words_of(groups))}" -- "$cur"))', "}"]


def server_completion(name, help_text):
    return [*completion_function(name, help_text.groups), f"complete -o filenames -F {function_of(name)} {name}"]


def tool_completion(commands):
    out = []
    for name, (_, help_text) in commands.items():
        out += completion_function(f"{TOOL} {name}", help_text.groups)
    first_words = sorted({name.split()[0] for name in commands} | {"help"})
    out += [f"{function_of(TOOL)}() {{",
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    COMPREPLY=($(compgen -W "{" ".join(first_words)}" -- "${{COMP_WORDS[1]}}"))', "    return", "  fi",
            '  case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in']
    for name in sorted(commands, key=lambda n: -len(n.split())):
        first, _, second = name.partition(" ")
        out.append(f'    "{first} {second}"*) {function_of(f"{TOOL} {name}")} ;;')
        if second:
            out.append(f'    "{first} "*) COMPREPLY=($(compgen -W "{second}" -- "${{COMP_WORDS[2]}}")) ;;')
    return [*out, "  esac", "}", f"complete -o filenames -F {function_of(TOOL)} {TOOL}"]


def main():
    programs, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    version = ask(programs / TOOL, "--version").split()[1]
    commands = {name: (summary, parse_help(ask(programs / TOOL, *name.split(), "--help")))
                for name, summary in commands_of(programs / TOOL)}
    pages = {TOOL: tool_page(version, commands)}
    completions = {TOOL: tool_completion(commands)}
    for name in SERVERS:
        help_text = parse_help(ask(programs / name, "--help"))
        pages[name] = server_page(name, version, help_text)
        completions[name] = server_completion(name, help_text)
    for directory in ("man", "completions"):
        (out / directory).mkdir(parents=True, exist_ok=True)
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        # As Debian wants them; the same bytes from the same text.
        (out / "man" / f"{name}.{section_of(name)}.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    for name, lines in completions.items():
        text = "# Written from `--help`. Completion for bash.\n" + "\n".join(lines) + "\n"
        (out / "completions" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
