"""What a test with foreign clients needs and the machine may not have: a virtual environment, kept between runs."""

import hashlib
import os
import shutil
import subprocess
import sys

SKIPPED = 77
HERE = os.path.dirname(os.path.abspath(__file__))


def fetch(directory, source, commands):
    """Runs `commands` to fill `directory`, once for every content of `source`."""
    with open(source, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    stamp = os.path.join(directory, "stamp")
    if os.path.exists(stamp) and open(stamp).read() == digest:
        return
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    for command in commands:
        result = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            print(f"skipped: {' '.join(command)}\n{result.stdout[-2000:]}")
            sys.exit(SKIPPED)
    with open(stamp, "w") as file:
        file.write(digest)


def python(cache, requirements=os.path.join(HERE, "requirements.txt")):
    """A Python with the packages of a requirements.txt."""
    venv = os.path.abspath(os.path.join(cache, "venv"))
    executable = os.path.join(venv, "bin", "python")
    fetch(venv, requirements, [[sys.executable, "-m", "venv", "."],
                               [executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r",
                                requirements]])
    return executable


def node(directory, source):
    """A folder with the node_modules of the package-lock.json in the folder `source`."""
    directory = os.path.abspath(directory)
    lock = os.path.join(source, "package-lock.json")
    fetch(directory, lock, [["cp", lock, os.path.join(source, "package.json"), "."],
                            ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]])
    return directory
