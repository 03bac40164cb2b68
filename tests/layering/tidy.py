#!/usr/bin/env python3
"""The rules of the tree that the compiler cannot check. Usage: tidy.py [--no-format] [ROOT]

Prints one line per finding, `path:line: rule: what`, and exits 1 when there is any.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

Finding = namedtuple("Finding", "path line rule what")

SKIPPED_DIRECTORIES = {".git", "build", ".venv", "node_modules", "__pycache__", ".cache"}
SOURCE_LINES_MAX = 800
HEADER_LINES_MAX = 300
MAIN_LINES_MAX = 60
FUNCTION_LINES_MAX = 70
COMMON_HEADERS_MAX = 15
COMMON_CODE_LINES_MAX = 1500

# Longer than the rules allow, by name and with the reason.
SIZE_EXEMPT = {}

# path -> rules that it may break, with the reason.
EXEMPT = {
    "tests/layering/tidy_test.py": {"banned"},  # plants violations
    "tests/layering/tidy.py": {"banned"},  # names them
}

# Who may include whom, by the first words of an include. A directory may always include itself. "proto" stands for
# proto/ and the generated headers; where it is missing, gRPC types are the business of *_service.*, *_client.* and
# main.cc only.
MAY_INCLUDE = {
    "common": set(),
    "process": {"common", "net"},
    "net": {"common"},
    "proto": {"common", "net", "proto"},
    "tokenizer": {"common"},
    "grammar": {"common", "tokenizer"},
    "simulation": {"common"},
    "engine/comm": {"common"},
    "engine/model": {"common", "engine/comm"},
    "engine/placement": {"common", "engine/comm", "engine/model"},
    "engine": {"common", "engine/comm", "engine/model", "engine/placement", "grammar"},
    "kvstore": {"common", "net", "process"},
    "worker": {"common", "net", "process", "engine", "engine/comm", "engine/model", "engine/placement", "grammar",
               "kvstore", "tokenizer"},
    "router": {"common", "net", "process", "tokenizer", "grammar", "kvstore"},
    "cli": {"common", "net", "process", "simulation", "engine", "engine/comm", "engine/model", "tokenizer"},
}
ANYTHING = {"tests", "bench"}
PROTO_EDGE = re.compile(r"([_/]service|_client)(_\w+)?\.(cc|h)$|(^|/)main\.cc$")
MPI_HOMES = ("engine/comm/", "tests/engine/comm/", "bench/")
GRPC_HOMES = ("proto/", "tests/", "bench/")

# On code without comments and string contents.
BANNED_CODE = [
    (r"\bstd::(w?regex|basic_regex)\b|#\s*include\s*<regex>", "std::regex overflows the stack on long input"),
    (r"\brapidjson\b|RAPIDJSON", "RapidJSON overflows the stack on deep input; use simdjson"),
    (r"(?<!operator )\bnew\b", "raw new; use std::make_unique, or unique_ptr<T>(new T()) in one expression"),
    (r"(?<!= )(?<!operator )\bdelete\b", "raw delete; use an owner"),
    (r"(?P<sleep>\bsleep_(for|until)\b|\bu?sleep\s*\(|\bnanosleep\s*\(|\bSleepFor\b)", "a sleep where an event belongs"),
    (r"(?<![\w.>])(std::|::)?system\s*\(", "system() starts a shell"),
    (r"\bpopen\s*\(", "popen() starts a shell"),
    (r"\bdlopen\s*\(", "dlopen() loads code"),
    (r"\busing namespace std\b", "using namespace std"),
]
# On the whole text, of every text file.
BANNED_TEXT = [
    (r"\b(TODO|FIXME|XXX)\b", "open ends belong to the issue tracker"),
    (r"(?<![\w.~-])/(home/\w|root/|Users/\w)", "the path of one person's machine"),
]
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "types"}
TEXT_SUFFIXES = (".cc", ".h", ".py", ".sh", ".md", ".cmake", ".txt", ".yaml", ".yml", ".proto", ".js", ".mjs")


def list_files(root):
    for directory, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in SKIPPED_DIRECTORIES)
        for name in sorted(files):
            yield os.path.relpath(os.path.join(directory, name), root).replace(os.sep, "/")


def strip_comments(text):
    """The code with comments and the contents of strings blanked, line breaks kept."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(?P<d>[^\s()\\]{0,16})\(.*?\)(?P=d)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)

    def blank(match):
        token = match.group(0)
        if token.startswith("'") and match.start() > 0 and re.match(r"[0-9a-fA-F]", text[match.start() - 1]):
            return token  # a digit separator: 1'000
        return '""' + "\n" * token.count("\n") if token[0] in "R\"" else " " + "\n" * token.count("\n")

    # Includes keep their quotes.
    out = []
    for line in text.split("\n"):
        out.append(re.sub(r'^(\s*#\s*include\s*)"([^"]*)"', r"\1<<\2>>", line))
    return pattern.sub(blank, "\n".join(out))


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def unit_of(path):
    """The directory of MAY_INCLUDE that a file belongs to, or None."""
    parts = path.split("/")
    for n in (2, 1):
        unit = "/".join(parts[:n])
        if unit in MAY_INCLUDE or (n == 1 and unit in ANYTHING):
            return unit
    return None


def included_unit(include):
    if include.startswith("longshelf/v1/"):
        return "proto"
    return unit_of(include)


class Tidy:
    def __init__(self, root):
        self.root = root
        self.paths = list(list_files(root))
        self.findings = []

    def read(self, path):
        with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
            return file.read()

    def add(self, path, line, rule, what):
        if rule not in EXEMPT.get(path, ()):
            self.findings.append(Finding(path, line, rule, what))

    def run(self):
        for path in self.paths:
            if path.endswith(TEXT_SUFFIXES):
                text = self.read(path)
                self.check_text(path, text)
                if path.endswith((".cc", ".h")):
                    code = strip_comments(text)
                    self.check_code(path, code)
                    self.check_includes(path, code)
                    self.check_size(path, text, code)
        self.check_listed()
        self.check_common()
        return self.findings

    def check_text(self, path, text):
        for pattern, why in BANNED_TEXT:
            for match in re.finditer(pattern, text):
                self.add(path, line_of(text, match.start()), "banned", f"{match.group(0)}: {why}")

    def check_code(self, path, code):
        # The way to a private constructor: owned before the expression ends.
        code = re.sub(r"(unique_ptr<[^;{}]*>\s*\w*\()new\b", r"\1", code)
        for pattern, why in BANNED_CODE:
            for match in re.finditer(pattern, code):
                rule = "sleep" if "sleep" in match.groupdict() else "banned"
                self.add(path, line_of(code, match.start()), rule, f"{match.group(0).strip()}: {why}")
        for match in re.finditer(r"\bTEST(?:_F|_P)?\s*\(\s*\w+,\s*(\w+)", code):
            if re.fullmatch(r"(?i)test_?\d*|[a-z]\w{0,2}", match.group(1)):
                self.add(path, line_of(code, match.start()), "test-name", f"{match.group(1)} is not a sentence")
        stem = re.sub(r"\.(cc|h)$", "", os.path.basename(path))
        if stem in BANNED_NAMES:
            self.add(path, 1, "name", f"{stem} names no concept")
        if not re.fullmatch(r"[a-z0-9_]+", stem):
            self.add(path, 1, "name", "file names are snake_case")
        if path.endswith(".h") and "#pragma once" not in code:
            self.add(path, 1, "pragma-once", "a header starts with #pragma once")

    def check_includes(self, path, code):
        unit = unit_of(path)
        at_edge = PROTO_EDGE.search(path) is not None
        for match in re.finditer(r"^\s*#\s*include\s*(<<|<)([^>]+)>", code, re.M):
            include, line = match.group(2), line_of(code, match.start(2))
            quoted = match.group(1) == "<<"
            if quoted and (include.startswith("../") or "/../" in include or include.startswith("./")):
                self.add(path, line, "include", f'"{include}" leaves the include roots')
            if include.startswith(("mpi.h", "mpi/")) and not path.startswith(MPI_HOMES):
                self.add(path, line, "mpi", "MPI belongs to engine/comm")
            if re.match(r"grpc(pp|\+\+)?/", include) and not at_edge and not path.startswith(GRPC_HOMES):
                self.add(path, line, "grpc", "gRPC types belong to *_service.*, *_client.* and main.cc")
            target = included_unit(include) if quoted else None
            if quoted and include.startswith("testing/") and unit not in ANYTHING:
                self.add(path, line, "include", "test support is for tests")
            if target is None or unit is None or unit in ANYTHING or target == unit:
                continue
            if target == "proto" and (at_edge or unit == "proto"):
                continue
            if target not in MAY_INCLUDE[unit]:
                allowed = ", ".join(sorted(MAY_INCLUDE[unit])) or "nothing else"
                self.add(path, line, "include", f'{unit} may not include "{include}" (it may: {allowed})')
        for match in re.finditer(r"\bMPI_[A-Z]\w+", code):
            if not path.startswith(MPI_HOMES):
                self.add(path, line_of(code, match.start()), "mpi", f"{match.group(0)}: MPI belongs to engine/comm")
                break
        match = re.search(r"\bgrpc::", code)
        if match and not at_edge and not path.startswith(GRPC_HOMES):
            self.add(path, line_of(code, match.start()), "grpc",
                     "gRPC types belong to *_service.*, *_client.* and main.cc")

    def check_size(self, path, text, code):
        if path in SIZE_EXEMPT:
            return
        n_lines = text.count("\n")
        name = os.path.basename(path)
        limit = MAIN_LINES_MAX if name == "main.cc" else HEADER_LINES_MAX if name.endswith(".h") else SOURCE_LINES_MAX
        if n_lines > limit:
            self.add(path, limit + 1, "size", f"{n_lines} lines, at most {limit}")
        # clang-format leaves namespaces unindented, so a function at namespace scope ends with a brace in column 0.
        start = None
        lines = code.split("\n")
        for i, line in enumerate(lines, 1):
            if start is None and re.match(r"[A-Za-z_:~\[<*& ]", line) and not line.startswith(" "):
                start = None if line.rstrip().endswith((";", "}")) else (i, line)
            elif line.startswith("}") and start is not None:
                scope = re.match(r"(inline )?(namespace|class|struct|enum|union|extern|template <.*> (class|struct))\b",
                                 start[1])
                n_lines = self.logic_lines(lines[start[0] - 1:i])
                if not scope and line.rstrip() == "}" and n_lines > FUNCTION_LINES_MAX:
                    self.add(path, start[0], "size", f"a function of {n_lines} lines, at most {FUNCTION_LINES_MAX}")
                start = None
            elif start is not None and (line == "" or (line.rstrip().endswith(";") and not line.startswith(" "))):
                if not self.open_brace(lines[start[0] - 1:i]):
                    start = None

    @staticmethod
    def open_brace(lines):
        return sum(line.count("{") - line.count("}") for line in lines) > 0

    @staticmethod
    def logic_lines(lines):
        """Without the rows of a table."""
        return sum(1 for line in lines if not re.match(r"\s+\{.*\},?$", line))

    def check_listed(self):
        """Every .cc is named by the CMakeLists.txt of its directory or of one above, and that one is reached."""
        cmake = {os.path.dirname(p): self.read(p) for p in self.paths if os.path.basename(p) == "CMakeLists.txt"}
        for directory in cmake:
            if not directory:
                continue
            parent = os.path.dirname(directory)
            while parent not in cmake and parent:
                parent = os.path.dirname(parent)
            relative = os.path.relpath(directory, parent or ".")
            if parent in cmake and not re.search(rf"add_subdirectory\(\s*{re.escape(relative)}\s*[)\s]", cmake[parent]):
                self.add(directory + "/CMakeLists.txt", 1, "listed", "no add_subdirectory leads here")
        for path in self.paths:
            if not path.endswith(".cc"):
                continue
            directory = os.path.dirname(path)
            while True:
                relative = os.path.relpath(path, directory or ".")
                if directory in cmake and re.search(rf"(?<![\w./]){re.escape(relative)}(?![\w.])", cmake[directory]):
                    break
                if not directory:
                    self.add(path, 1, "listed", "no CMakeLists.txt names this file, so it is never built")
                    break
                directory = os.path.dirname(directory)

    def check_common(self):
        headers = [p for p in self.paths if re.fullmatch(r"common/include/common/[^/]+\.h", p)]
        if len(headers) > COMMON_HEADERS_MAX:
            self.add("common", 1, "common", f"{len(headers)} public headers, at most {COMMON_HEADERS_MAX}")
        n_code = 0
        for path in self.paths:
            if path.startswith("common/") and path.endswith((".cc", ".h")):
                lines = strip_comments(self.read(path)).split("\n")
                n_code += sum(1 for line in lines if line.strip() and not line.startswith("#include"))
        if n_code > COMMON_CODE_LINES_MAX:
            self.add("common", 1, "common", f"{n_code} lines of code, at most {COMMON_CODE_LINES_MAX}")
        readme = self.read("common/README.md") if "common/README.md" in self.paths else ""
        for path in headers:
            row = re.search(rf"^\|\s*`{re.escape(os.path.basename(path))}`\s*\|[^|]+\|([^|]+)\|", readme, re.M)
            if row is None:
                self.add(path, 1, "common", "common/README.md has no row for this header")
            elif row.group(1).count("`") < 4:
                self.add("common/README.md", 1, "common", f"{os.path.basename(path)} needs two users")


def check_format(root, paths):
    """Where Debian's clang-format is installed; other versions break lines elsewhere."""
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if tool is None or " 14." not in subprocess.run([tool, "--version"], capture_output=True, text=True).stdout:
        return []
    sources = [p for p in paths if p.endswith((".cc", ".h"))]
    findings = []
    for i in range(0, len(sources), 64):
        run = subprocess.run([tool, "--dry-run", "--style=file", *sources[i:i + 64]], cwd=root, capture_output=True,
                             text=True)
        for match in re.finditer(r"^(\S+?):(\d+):\d+: warning: code should be clang-formatted", run.stderr, re.M):
            if not any(f.path == match.group(1) for f in findings):
                findings.append(Finding(match.group(1), int(match.group(2)), "format", "run clang-format -i"))
    return findings


def main(args):
    format_too = "--no-format" not in args
    roots = [a for a in args if not a.startswith("--")]
    root = roots[0] if roots else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    tidy = Tidy(root)
    findings = tidy.run()
    if format_too:
        findings += check_format(root, tidy.paths)
    for finding in findings:
        print(f"{finding.path}:{finding.line}: {finding.rule}: {finding.what}")
    print(f"tidy: {len(tidy.paths)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
