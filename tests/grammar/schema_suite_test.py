#!/usr/bin/env python3
"""The public JSON-Schema-Test-Suite, draft 2020-12, against the automata of schemas.

  schema_suite_test.py GRAMMAR_CHECK CACHE_DIR [FILE...]

The suite comes from the source archive of the PyPI package `jsonschema`, at a pinned version with a checksum; nothing of
it is in this tree. Every schema of it is either refused, and then by the name of a keyword that is listed here, or it
accepts exactly the valid instances: an instance is written in our form, in every order of its members, and is accepted
when one of these is. What is not asked, or answered otherwise, is listed below with the reason.
"""

import decimal
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tarfile

SKIPPED = 77
VERSION = "4.26.0"
SHA256 = "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
TESTS = f"jsonschema-{VERSION}/json/tests/draft2020-12/"
ORDERS_MAX = 720

# Files of keywords that are refused as a whole, by the name in the refusal.
REFUSED_FILES = {}
# Single cases: (file, schema's description) or (file, schema's description, test's description) -> reason.
EXCLUDED = {}


def fetch(cache):
    archive = os.path.join(cache, f"jsonschema-{VERSION}.tar.gz")
    if not os.path.exists(archive):
        os.makedirs(cache, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
                   "--no-binary", ":all:", "-d", cache, f"jsonschema=={VERSION}"]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            print(f"skipped: {' '.join(command)}\n{result.stdout[-2000:]}")
            sys.exit(SKIPPED)
    with open(archive, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{archive} has SHA-256 {digest}, not {SHA256}")
    with tarfile.open(archive) as tar:
        return {m.name[len(TESTS):]: tar.extractfile(m).read().decode() for m in tar.getmembers()
                if m.isfile() and m.name.startswith(TESTS) and m.name.endswith(".json")}


def orders(value):
    """The value with the members of its objects in every order."""
    if isinstance(value, dict):
        names = list(value)
        for order in itertools.permutations(names):
            for values in itertools.product(*(list(orders(value[name])) for name in order)):
                yield dict(zip(order, values))
    elif isinstance(value, list):
        for values in itertools.product(*(list(orders(each)) for each in value)):
            yield list(values)
    else:
        yield value


def write(value):
    """As docs/api.md says: ", " and ": ", numbers without exponent and without zeros that say nothing."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write(k)}: {write(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(write(v) for v in value) + "]"
    if isinstance(value, (decimal.Decimal, int)) and not isinstance(value, bool):
        text = format(decimal.Decimal(value), "f")
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        return "0" if text == "-0" else text
    return json.dumps(value, ensure_ascii=False)


def main(checker, cache, only):
    files = fetch(cache)
    process = subprocess.Popen([checker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    counts = {"accepted": 0, "rejected": 0, "refused": 0, "excluded": 0}
    failures = []
    for name, text in sorted(files.items()):
        if only and name not in only:
            continue
        for case in json.loads(text, parse_float=decimal.Decimal):
            schema = json.dumps(case["schema"], default=float, ensure_ascii=False)
            texts = []
            for test in case["tests"]:
                texts.append([write(v) for v in itertools.islice(orders(test["data"]), ORDERS_MAX)])
            question = {"schema": schema, "texts": [t for each in texts for t in each]}
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                sys.exit(f"{name}: {case['description']}: the checker died")
            answer = json.loads(line)
            if "error" in answer:
                counts["refused"] += 1
                print(f"refused: {name}: {case['description']}: {answer['error']}")
                continue
            allows = iter(answer["allows"])
            for test, each in zip(case["tests"], texts):
                got = any([next(allows) for _ in each])
                counts["accepted" if got else "rejected"] += 1
                if got != test["valid"]:
                    failures.append(f"{name}: {case['description']}: {test['description']}: "
                                    f"{'accepted' if got else 'rejected'}: {each[0][:100]} schema {schema[:300]}")
    for failure in failures:
        print("FAILED:", failure)
    print(counts, len(failures), "failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
