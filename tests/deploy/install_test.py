#!/usr/bin/env python3
"""Installs into a directory of its own and works from there, as a user of the package would.

Usage: install_test.py BUILD_DIRECTORY
"""

import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request

BUILD = pathlib.Path(sys.argv[1])
SERVERS = ["longshelf-host", "longshelf-kvstore", "longshelf-router", "longshelf-shard", "longshelf-worker"]
PROGRAMS = ["longshelf", *SERVERS]
EXPOSURE_MAX = 2.5


def run(*argv, **more):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, check=True, **more)
    return done.stdout


def flags_of(help_text):
    return set(re.findall(r"^  (?:-h,)?(--[a-z][a-z-]*)", help_text, re.M))


def commands_of(tool):
    return re.findall(r"^  (\S+(?: \S+)?)  +\S", run(tool, "help"), re.M)


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        cls.prefix = pathlib.Path(cls.directory.name, "prefix")
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)
        cls.bin = cls.prefix / "bin"

    def helps_of(self, program):
        """The texts of --help of a program, or of all commands of the tool."""
        if program != "longshelf":
            return [run(self.bin / program, "--help")]
        return [run(self.bin / program, *name.split(), "--help") for name in commands_of(self.bin / program)]

    def test_programs_run_and_find_no_library_of_the_build(self):
        for program in PROGRAMS:
            self.assertIn("longshelf", run(self.bin / program, "--version"))
            self.assertNotRegex(run("readelf", "-d", self.bin / program), "RPATH|RUNPATH")

    def test_a_cluster_comes_up_with_the_installed_model_and_answers(self):
        up = subprocess.Popen([self.bin / "longshelf", "up", "--port=0", "--grpc-port=0", "--shards=2", "--workers=1"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.directory.name)
        try:
            lines = []
            url = None
            for line in up.stdout:
                lines.append(line)
                url = url or (re.search(r"HTTP +(http://\S+)", line) or [None, None])[1]
                if "Ctrl-C stops it" in line:
                    break
            self.assertIsNotNone(url, "".join(lines))
            body = {"messages": [{"role": "user", "content": "What is longshelf?"}], "max_tokens": 8, "temperature": 0}
            request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(),
                                             {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                self.assertEqual(json.load(answer)["usage"]["completion_tokens"], 8)
        finally:
            up.send_signal(signal.SIGINT)
            up.stdout.read()
            up.stdout.close()
            self.assertEqual(up.wait(60), 0)

    def test_every_flag_is_in_the_man_page(self):
        for program in PROGRAMS:
            section = 1 if program == "longshelf" else 8
            packed = self.prefix / f"share/man/man{section}/{program}.{section}.gz"
            page = gzip.decompress(packed.read_bytes()).decode().replace("\\-", "-")
            for help_text in self.helps_of(program):
                flags = flags_of(help_text)
                self.assertGreaterEqual(len(flags), 4)
                for flag in flags:
                    self.assertRegex(page, rf"\\fB{flag}\\fR", f"{program} {flag}")
            self.assertNotIn(str(BUILD), page)
            if shutil.which("man"):
                told = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(packed)],
                                      capture_output=True, text=True, check=False)
                self.assertEqual((told.returncode, told.stderr), (0, ""))

    def complete(self, *words):
        """What bash would offer for the last word."""
        quoted = " ".join(f"'{word}'" for word in words)
        function = "_" + words[0].replace("-", "_")
        script = (f"source '{self.prefix}/share/bash-completion/completions/{words[0]}'; COMP_WORDS=({quoted}); "
                  f"COMP_CWORD={len(words) - 1}; {function}; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
        return run("bash", "-c", script).split()

    def test_bash_completes_every_flag(self):
        for program in SERVERS:
            self.assertEqual({w for w in self.complete(program, "--") if w.startswith("--")},
                             flags_of(run(self.bin / program, "--help")), program)
        for name in commands_of(self.bin / "longshelf"):
            offered = self.complete("longshelf", *name.split(), "--")
            self.assertEqual(set(offered), flags_of(run(self.bin / "longshelf", *name.split(), "--help")), name)
        self.assertIn("plan", self.complete("longshelf", "p"))
        self.assertEqual(self.complete("longshelf", "model", ""), ["info"])
        self.assertIn("debug", self.complete("longshelf-router", "--log-level", "d"))
        self.assertIn("debug", self.complete("longshelf-router", "--log-level", "=", ""))

    def test_the_configuration_is_accepted(self):
        for program in ("host", "kvstore", "router", "worker"):
            text = run(self.bin / f"longshelf-{program}", "--config", self.prefix / f"etc/longshelf/{program}.yaml",
                       "--print-config")
            self.assertIn(f"{program}.yaml:", text)
            self.assertNotIn("@", (self.prefix / f"etc/longshelf/{program}.yaml").read_text(encoding="utf-8"))

    def test_units_start_what_is_installed_and_are_closed(self):
        for program in ("host", "kvstore", "router", "worker"):
            unit = self.prefix / f"lib/systemd/system/longshelf-{program}.service"
            text = unit.read_text(encoding="utf-8")
            program_path, flag, config = re.search(r"^ExecStart=(\S+) (--config) (\S+)$", text, re.M).groups()
            self.assertTrue(os.access(program_path, os.X_OK))
            self.assertIn(flag, run(program_path, "--help"))
            self.assertTrue(os.path.exists(config))
            for variable in re.findall(r"^Environment=(LONGSHELF_\w+)=", text, re.M):
                self.assertIn(f"[{variable}]", run(program_path, "--help"))
            self.check_exposure(unit)

    def check_exposure(self, unit):
        if not shutil.which("systemd-analyze"):
            self.skipTest("systemd-analyze is not installed")
        report = run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit)
        exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", report).group(1))
        self.assertLessEqual(exposure, EXPOSURE_MAX, report)
        told = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True,
                              check=False)
        self.assertEqual((told.returncode, told.stderr), (0, ""))


@unittest.skipUnless(shutil.which("dpkg-shlibdeps"), "dpkg-dev is not installed: scripts/install-deps.sh package")
class Packaged(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)
        run("cpack", "-G", "DEB", "-B", cls.directory.name, cwd=BUILD)
        cls.package, = pathlib.Path(cls.directory.name).glob("*.deb")
        cls.root = pathlib.Path(cls.directory.name, "root")
        run("dpkg-deb", "-R", cls.package, cls.root)

    def test_it_depends_on_what_its_programs_link_and_run(self):
        depends = run("dpkg-deb", "-f", self.package, "Depends")
        for library in ("libc6", "libgrpc++1.51", "libopenmpi3", "libssl3", "liburing2", "openmpi-bin"):
            self.assertRegex(depends, rf"(^|, ){re.escape(library)}( |,|$)")

    def test_it_holds_what_is_promised_and_belongs_to_root(self):
        listing = run("dpkg-deb", "-c", self.package)
        self.assertEqual({line.split()[1] for line in listing.splitlines()}, {"root/root"})
        for path in (*(f"/usr/bin/{program}" for program in PROGRAMS), "/etc/longshelf/worker.yaml",
                     "/usr/lib/systemd/system/longshelf-worker.service", "/usr/share/man/man8/longshelf-router.8.gz",
                     "/usr/share/bash-completion/completions/longshelf", "/usr/lib/sysusers.d/longshelf.conf",
                     "/usr/share/longshelf/models/demo/config.json", "/usr/share/doc/longshelf/docs/operating.md"):
            self.assertIn(f" .{path}\n", listing + "\n")

    def test_every_file_below_etc_is_configuration(self):
        below = {f"/{path.relative_to(self.root)}" for path in (self.root / "etc").rglob("*") if path.is_file()}
        self.assertEqual(set((self.root / "DEBIAN/conffiles").read_text(encoding="utf-8").split()), below)

    def test_its_units_and_configuration_name_the_places_of_the_package(self):
        unit = (self.root / "usr/lib/systemd/system/longshelf-worker.service").read_text(encoding="utf-8")
        self.assertIn("ExecStart=/usr/bin/longshelf-worker --config /etc/longshelf/worker.yaml", unit)
        self.assertIn("model: /usr/share/longshelf/models/demo",
                      (self.root / "etc/longshelf/worker.yaml").read_text(encoding="utf-8"))

    def test_its_changelog_is_of_this_version_and_its_copyright_is_there(self):
        pages = self.root / "usr/share/doc/longshelf"
        changelog = gzip.decompress((pages / "changelog.gz").read_bytes()).decode()
        version = run("dpkg-deb", "-f", self.package, "Version").strip()
        self.assertTrue(changelog.startswith(f"longshelf ({version}) "), changelog)
        self.assertIn("Copyright:", (pages / "copyright").read_text(encoding="utf-8"))

    @unittest.skipUnless(shutil.which("lintian"), "lintian is not installed: scripts/install-deps.sh test")
    def test_lintian_finds_nothing_but_what_we_mean(self):
        told = subprocess.run(["lintian", "--no-cfg", "--allow-root", self.package], capture_output=True, text=True,
                              check=False)
        # Services are stopped by name: no package of ours runs without systemd.
        tags = {line.split()[2] for line in told.stdout.splitlines() if re.match("[EW]: ", line)}
        self.assertEqual(tags - {"maintainer-script-calls-systemctl"}, set(), told.stdout + told.stderr)
        self.assertIn(told.returncode, (0, 2))

    def test_its_scripts_are_shell_and_do_nothing_twice(self):
        for name in ("postinst", "prerm", "postrm"):
            run("sh", "-n", self.root / "DEBIAN" / name)
            self.assertEqual((self.root / "DEBIAN" / name).stat().st_mode & 0o777, 0o755)

    def test_its_programs_run(self):
        for program in PROGRAMS:
            self.assertIn("longshelf", run(self.root / "usr/bin" / program, "--version"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
