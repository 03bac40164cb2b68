#!/usr/bin/env python3
"""Plants one violation of each kind in a small tree and expects tidy.py to name it, and nothing else."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tidy  # noqa: E402

CLEAN = {
    "CMakeLists.txt": "add_subdirectory(common)\nadd_subdirectory(engine)\nadd_subdirectory(kvstore)\n"
                      "add_subdirectory(router)\nadd_subdirectory(tests)\n",
    "common/CMakeLists.txt": "longshelf_library(NAME common SOURCES clock.cc)\n",
    "common/README.md": "| header | concept | two users |\n|---|---|---|\n| `clock.h` | time | `engine`, `router` |\n",
    "common/include/common/clock.h": "#pragma once\nnamespace longshelf {}\n",
    "common/clock.cc": '#include "common/clock.h"\n',
    "engine/CMakeLists.txt": "longshelf_library(NAME engine SOURCES\n  engine.cc\n  comm/mpi.cc)\n",
    "engine/engine.cc": '#include "common/clock.h"\n#include "engine/model/model.h"\n// a new day; delete nothing\n'
                        'const char* kText = "new delete std::regex system(";\n'
                        "struct A { A(const A&) = delete; };\nconst int kN = 1'000;\nauto a = std::unique_ptr<A>(new A());\nstd::unique_ptr<A> b(new A());\n",
    "engine/comm/mpi.cc": "#include <mpi.h>\nint n = MPI_SUCCESS;\n",
    "kvstore/CMakeLists.txt": "add_library(kvstore kv_client.cc main.cc)\n",
    "kvstore/kv_client.cc": '#include <grpcpp/grpcpp.h>\n#include "longshelf/v1/kvstore.grpc.pb.h"\ngrpc::Status s;\n',
    "kvstore/main.cc": "int main() { return 0; }\n",
    "router/CMakeLists.txt": "add_library(router pick.cc)\n",
    "router/pick.cc": '#include "tokenizer/tokenizer.h"\n#include "kvstore/keys.h"\n',
    "tests/CMakeLists.txt": "add_executable(t pick_test.cc)\n",
    "tests/pick_test.cc": '#include "router/pick.h"\n#include "engine/engine.h"\nTEST(Pick, SkipsStaleWorkers) {}\n',
}


def findings(changes):
    """The rules that CLEAN with `changes` (path -> text, or None to remove) breaks, as (path, rule)."""
    with tempfile.TemporaryDirectory() as root:
        for path, text in {**CLEAN, **changes}.items():
            if text is None:
                continue
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        return sorted({(f.path, f.rule) for f in tidy.Tidy(root).run()})


def appended(path, text):
    return {path: CLEAN[path] + text}


class TidyTest(unittest.TestCase):
    def expect(self, changes, *expected):
        self.assertEqual(findings(changes), sorted(expected))

    def test_accepts_a_clean_tree(self):
        self.expect({})

    def test_finds_each_banned_word(self):
        for text in ("std::regex r;", "#include <regex>", "rapidjson::Document d;", "int* p = new int;",
                     "auto p = new (std::nothrow) int;", "delete p;", "delete[] p;", 'system("ls");', 'std::system("x");',
                     'popen("ls", "r");', 'dlopen("x.so", 0);', "using namespace std;"):
            with self.subTest(text):
                self.expect(appended("engine/engine.cc", text + "\n"), ("engine/engine.cc", "banned"))

    def test_finds_sleeps(self):
        for text in ("std::this_thread::sleep_for(1s);", "usleep(1);", "sleep(1);", "absl::SleepFor(d);"):
            with self.subTest(text):
                self.expect(appended("engine/engine.cc", text + "\n"), ("engine/engine.cc", "sleep"))

    def test_finds_open_ends_and_personal_paths_in_any_text_file(self):
        for text in ("TO" + "DO: later", "FIX" + "ME", "see /ho" + "me/ada/x", "/ro" + "ot/x", "/Us" + "ers/ada"):
            with self.subTest(text):
                self.expect({"docs/page.md": text + "\n"}, ("docs/page.md", "banned"))

    def test_leaves_web_paths_alone(self):
        self.expect({"docs/page.md": "https://example.org/home/page and ./home/x\n"})

    def test_finds_includes_that_leave_the_roots(self):
        self.expect(appended("engine/engine.cc", '#include "../router/pick.h"\n'), ("engine/engine.cc", "include"))

    def test_finds_includes_against_the_direction(self):
        for path, include in (("engine/engine.cc", "kvstore/keys.h"), ("engine/engine.cc", "router/pick.h"),
                              ("engine/comm/mpi.cc", "engine/model/model.h"), ("common/clock.cc", "engine/engine.h"),
                              ("kvstore/kv_client.cc", "engine/engine.h"), ("router/pick.cc", "engine/engine.h"),
                              ("router/pick.cc", "worker/worker.h"), ("router/pick.cc", "testing/fixtures.h"),
                              ("router/pick.cc", "longshelf/v1/worker.pb.h"), ("router/pick.cc", "proto/x.h")):
            with self.subTest(path + " " + include):
                self.expect(appended(path, f'#include "{include}"\n'), (path, "include"))

    def test_finds_mpi_outside_its_home(self):
        self.expect(appended("engine/engine.cc", "#include <mpi.h>\n"), ("engine/engine.cc", "mpi"))
        self.expect(appended("router/pick.cc", "int n = MPI_SUCCESS;\n"), ("router/pick.cc", "mpi"))

    def test_finds_grpc_outside_the_edges(self):
        self.expect(appended("router/pick.cc", "grpc::Status s;\n"), ("router/pick.cc", "grpc"))
        self.expect(appended("router/pick.cc", "#include <grpcpp/grpcpp.h>\n"), ("router/pick.cc", "grpc"))

    def test_finds_files_that_are_too_long(self):
        self.expect(appended("engine/engine.cc", "int x;\n" * 800), ("engine/engine.cc", "size"))
        self.expect(appended("common/include/common/clock.h", "// x\n" * 300),
                    ("common/include/common/clock.h", "size"))
        self.expect(appended("kvstore/main.cc", "int x;\n" * 60), ("kvstore/main.cc", "size"))

    def test_finds_functions_that_are_too_long(self):
        body = "  Call();\n" * 69
        self.expect(appended("engine/engine.cc", "int F() {\n" + body + "}\n"), ("engine/engine.cc", "size"))
        self.expect(appended("engine/engine.cc", "int F(int a,\n      int b) {\n" + body + "}\n"),
                    ("engine/engine.cc", "size"))
        self.expect(appended("engine/engine.cc", "int F() {\n" + body[:-10] + "}\n"))
        self.expect(appended("engine/engine.cc", "T Table() {\n  return {\n" + "    {1, {2}},\n" * 90 + "  };\n}\n"))
        self.expect(appended("engine/engine.cc", "namespace a {\n\n" + "int F();\n" * 90 + "\n}\n"))
        self.expect(appended("engine/engine.cc", "class A {\n" + "  int F();\n" * 90 + "};\n"))

    def test_finds_sources_and_directories_that_are_never_built(self):
        self.expect({"engine/orphan.cc": "int x;\n"}, ("engine/orphan.cc", "listed"))
        self.expect({"tests/lost_test.cc": "TEST(A, IsNeverRun) {}\n"}, ("tests/lost_test.cc", "listed"))
        self.expect({"worker/CMakeLists.txt": ""}, ("worker/CMakeLists.txt", "listed"))
        # A name that only ends like a listed one is not listed.
        self.expect({"router/ick.cc": "int x;\n"}, ("router/ick.cc", "listed"))

    def test_finds_bad_names(self):
        self.expect({"common/include/common/utils.h": "#pragma once\n",
                     "common/README.md": CLEAN["common/README.md"] + "| `utils.h` | all | `engine`, `router` |\n"},
                    ("common/include/common/utils.h", "name"))
        self.expect(appended("tests/pick_test.cc", "TEST(Pick, Test1) {}\n"), ("tests/pick_test.cc", "test-name"))
        self.expect({"common/include/common/clock.h": "int x;\n"}, ("common/include/common/clock.h", "pragma-once"))

    def test_holds_common_to_its_limits(self):
        readme = CLEAN["common/README.md"]
        many = {f"common/include/common/h{i}.h": "#pragma once\n" for i in range(15)}
        rows = "".join(f"| `h{i}.h` | x | `engine`, `router` |\n" for i in range(15))
        self.expect({**many, "common/README.md": readme + rows}, ("common", "common"))
        self.expect(appended("common/clock.cc", "int x;\n" * 700 + "// free\n\n" * 40))
        self.expect({"common/clock.cc": "int x;\n" * 760, "common/other.cc": "int x;\n" * 760,
                     "common/CMakeLists.txt": "add_library(common clock.cc other.cc)\n"}, ("common", "common"))
        self.expect({"common/README.md": ""}, ("common/include/common/clock.h", "common"))
        self.expect({"common/README.md": readme.replace(", `router`", "")}, ("common/README.md", "common"))

    def test_finds_unformatted_code_where_the_formatter_is_installed(self):
        with tempfile.TemporaryDirectory() as root:
            with open(os.path.join(root, "a.cc"), "w", encoding="utf-8") as file:
                file.write("int   x ;\n")
            with open(os.path.join(root, ".clang-format"), "w", encoding="utf-8") as file:
                file.write("BasedOnStyle: Google\n")
            found = tidy.check_format(root, ["a.cc"])
        if tidy.shutil.which("clang-format-14"):
            self.assertEqual([(f.path, f.rule) for f in found], [("a.cc", "format")])


if __name__ == "__main__":
    unittest.main()
