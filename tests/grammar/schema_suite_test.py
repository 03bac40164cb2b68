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

# Keywords that no schema may use here where they matter. A refusal must name one of them, or be listed below.
REFUSED = {
    "$ref": "outside of the schema itself, or to a $dynamicAnchor",
    "$id": "below the root: references would be to something else",
    "$schema": "of other people",
    "$dynamicRef": "", "$dynamicAnchor": "", "$vocabulary": "", "$recursiveRef": "",
    "contains": "which items there are already is not kept track of", "minContains": "", "maxContains": "",
    "uniqueItems": "the same",
    "unevaluatedItems": "", "unevaluatedProperties": "",
    "contentSchema": "",
    "dependencies": "of older drafts",
    "format": "that is not in the list of docs/api.md",
    "multipleOf": "of more than three digits",
    "pattern": "with what no finite automaton can do, or \\p",
    "patternProperties": "the same",
    "minProperties": "where names are free",
    "unknown-keyword": "names that no draft knows", "array_of_schemas": "the same",
}
# A refusal that names no keyword: the schema allows nothing, so that no answer could be given.
NOTHING = "allows no value that can be written"

# Files that are not asked, and why.
EXCLUDED_FILES = {
    "format.json": "there `format` is an annotation; here it is enforced, as optional/format/*.json have it",
    "optional/bignum.json": "numbers of more than 18 digits are never written",
    "optional/float-overflow.json": "the same",
    "optional/cross-draft.json": "refers to other drafts over the network",
}
# Tests whose valid instance is not accepted: what is written is valid, but not everything that is valid is written.
NOT_WRITTEN = {
    ("optional/anchor.json", "$anchor inside an enum is not a real identifier"): "anchors are found anywhere",
    ("optional/format/date-time.json", "a valid date-time with a leap second, UTC"): "no leap seconds",
    ("optional/format/date-time.json", "a valid date-time with a leap second, with minus offset"): "no leap seconds",
    ("optional/format/email.json", "a quoted string with a space in the local part is valid"): "no quoted parts",
    ("optional/format/email.json", "a quoted string with a double dot in the local part is valid"): "no quoted parts",
    ("optional/format/email.json", "a quoted string with a @ in the local part is valid"): "no quoted parts",
    ("optional/format/email.json", "an IPv4-address-literal after the @ is valid"): "no address literals",
    ("optional/format/email.json", "an IPv6-address-literal after the @ is valid"): "no address literals",
    ("optional/format/hostname.json", "a valid punycoded IDN hostname"): "no labels with two hyphens in a row",
    ("optional/format/hostname.json", "maximum label length"): "labels of up to 31 characters beside hyphens",
    ("optional/format/time.json", "a valid time string with leap second, Zulu"): "no leap seconds",
    ("optional/format/time.json", "valid leap second, zero time-offset"): "no leap seconds",
    ("optional/format/time.json", "valid leap second, positive time-offset"): "no leap seconds",
    ("optional/format/time.json", "valid leap second, large positive time-offset"): "no leap seconds",
    ("optional/format/time.json", "valid leap second, negative time-offset"): "no leap seconds",
    ("optional/format/time.json", "valid leap second, large negative time-offset"): "no leap seconds",
    ("optional/format/uri.json", "a valid URL "): "no address literals",
}
# How many of each there must be, so that a change that refuses everything does not pass.
ACCEPTED_MIN, REJECTED_MIN, REFUSED_MAX = 560, 460, 195


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


def names_keyword(error):
    return NOTHING in error or any(f'"{name}"' in error for name in REFUSED)


class Run:
    def __init__(self, checker):
        self.process = subprocess.Popen([checker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.counts = {"accepted": 0, "rejected": 0, "refused": 0, "not written": 0}
        self.failures = []
        self.unused = set(NOT_WRITTEN)

    def ask(self, schema, texts):
        self.process.stdin.write(json.dumps({"schema": schema, "texts": texts}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the checker died of {schema}")
        return json.loads(line)

    def check(self, name, case):
        # As it was sent, numbers included.
        schema = json.dumps(case["schema"], default=float, ensure_ascii=False)
        texts = [[write(v) for v in itertools.islice(orders(test["data"]), ORDERS_MAX)] for test in case["tests"]]
        answer = self.ask(schema, [text for each in texts for text in each])
        where = f"{name}: {case['description']}"
        if "error" in answer:
            self.counts["refused"] += 1
            valid = [t["description"] for t in case["tests"] if t["valid"]]
            if not names_keyword(answer["error"]) or NOTHING in answer["error"] and valid:
                self.failures.append(f"{where}: refused: {answer['error']}")
            return
        allows = iter(answer["allows"])
        for test, each in zip(case["tests"], texts):
            got = any([next(allows) for _ in each])
            if got == test["valid"]:
                self.counts["accepted" if got else "rejected"] += 1
                continue
            known = [key for key in ((name, case["description"]), (name, test["description"])) if key in NOT_WRITTEN]
            if test["valid"] and known:
                self.counts["not written"] += 1
                self.unused -= set(known)
                continue
            self.failures.append(f"{where}: {test['description']}: {'accepted' if got else 'rejected'}: "
                                 f"{each[0][:100]} of {schema[:300]}")


def main(checker, cache, only):
    run = Run(checker)
    for name, text in sorted(fetch(cache).items()):
        if name in EXCLUDED_FILES or only and name not in only:
            continue
        for case in json.loads(text, parse_float=decimal.Decimal):
            run.check(name, case)
    if not only:
        run.failures += [f"{key} is listed and was not needed" for key in run.unused]
        counts = run.counts
        if (counts["accepted"] < ACCEPTED_MIN or counts["rejected"] < REJECTED_MIN or counts["refused"] > REFUSED_MAX):
            run.failures.append(f"too much is refused: {counts}")
    for failure in run.failures:
        print("FAILED:", failure)
    print(run.counts, len(run.failures), "failures")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
