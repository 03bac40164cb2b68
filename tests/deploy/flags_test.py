#!/usr/bin/env python3
"""Every flag and variable that deploy/ and its pages give to a program exists in that program's --help.

Usage: flags_test.py DIRECTORY_OF_THE_PROGRAMS SOURCE_TREE
"""

import functools
import pathlib
import re
import subprocess
import sys
import unittest

import deployed

BIN, TREE = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
SERVERS = ["longshelf-host", "longshelf-kvstore", "longshelf-router", "longshelf-shard", "longshelf-worker"]
# Those that are no option of a program: build switches, and what LONGSHELF_ names stand for in sentences.
NOT_OPTIONS = {"LONGSHELF_CONFIG", "LONGSHELF_KERNELS", "LONGSHELF_TESTS", "LONGSHELF_PROGRAMS"}


@functools.cache
def known_of(program):
    """Flags and variables of a program or of a command of the tool; empty: there is no such command."""
    run = subprocess.run([BIN / program.split()[0], *program.split()[1:], "--help"], capture_output=True, text=True,
                         check=False)
    if run.returncode != 0:
        return set()
    flags = set(re.findall(r"^  (?:-h,)?(--[a-z][a-z-]*)", run.stdout, re.M))
    return flags | {f"--no-{flag[2:]}" for flag in flags} | set(re.findall(r"\[(LONGSHELF_\w+)\]", run.stdout))


def unknown(told):
    if told.flag in NOT_OPTIONS or told.flag.endswith("_"):
        return False
    programs = [told.program] if told.program else SERVERS
    return not any(told.flag in known_of(program) for program in programs)


class Flags(unittest.TestCase):
    def test_what_is_told_exists(self):
        all_told = []
        for path in deployed.pages_of(TREE):
            text = path.read_text(encoding="utf-8")
            all_told += deployed.told_in(path.relative_to(TREE), text)
        wrong = [f"{t.path}: {t.program or 'no program'} has no {t.flag}" for t in all_told if unknown(t)]
        self.assertEqual(wrong, [])
        told_of = {}
        for told in all_told:
            told_of.setdefault(str(told.path), set()).add((told.program, told.flag))
        # The search finds what is there: one of each kind of file.
        for path, told in (("deploy/kubernetes/base/worker.yaml", ("longshelf-worker", "--kv-memory")),
                           ("deploy/kubernetes/base/store.yaml", ("longshelf-kvstore", "--disk-size")),
                           ("deploy/container/compose.yaml", ("longshelf-router", "--api-keys")),
                           ("deploy/slurm/longshelf.sbatch", ("longshelf-worker", "--worker-id")),
                           ("deploy/slurm/longshelf.sbatch", ("longshelf-router", "--tenant-secret-file")),
                           ("deploy/systemd/longshelf-kvstore.service.in", ("longshelf-kvstore", "--config")),
                           ("deploy/systemd/longshelf-worker.service.in", ("longshelf-worker", "LONGSHELF_WORK_DIR")),
                           ("docs/operating.md", ("longshelf-kvstore", "--memory"))):
            self.assertIn(told, told_of.get(path, set()), path)

    def test_what_does_not_exist_is_found(self):
        for name, text in (("x.yaml", "command: [longshelf-router]\nargs: [--listen=1:2, --worker=a:1]\n"),
                           ("x.yaml", "a:\n  - {command: [longshelf-kvstore, --memroy=1GiB]}\n"),
                           ("x.sbatch", "srun --overlap \"$BIN/longshelf-worker\" \\\n  --listen 1:2 --modle \"$M\"\n"),
                           ("x.md", "Run `longshelf plan --contxt 128K` and see.\n"),
                           ("x.md", "Run longshelf model inof --json.\n"),
                           ("longshelf-router.service.in", "Environment=LONGSHELF_KV_MEMORY=1\n"),
                           ("x.sh", "export LONGSHELF_LISTN=1:2\n")):
            told = deployed.told_in(pathlib.Path(name), text)
            self.assertEqual(sum(unknown(t) for t in told), 1, (name, text, told))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
