#!/usr/bin/env python3
"""The disk tier beside fio and RocksDB's blob files: objects of one size, written one after another, taking turns. The
disk tier twice: as cache, which is only written, and with a tenth retained, part of which is read and written again.

    bench/disk_peers.py --directory DIR [--build build/release] [--rounds 5] [--put 4GiB] [--disk-size 2GiB]

DIR is on the file system to measure; what this makes there is removed. fio writes what a record takes, past the page
cache, over a file that was set aside as segments are, and syncs as often as the disk tier does; once with one write at a
time, once with eight (io_uring). What is not installed (fio) or not built (rocksdb_blob_bench) is left out. CSV on
standard output: medians, and the disk tier's ratio to each in the same round."""
import argparse
import csv
import json
import pathlib
import shutil
import resource
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAYLOAD_BYTES = 899648  # one block of V4 Flash
RECORD_BYTES = (-(-PAYLOAD_BYTES // 4096) + 1) * 4096
SYNC_BYTES = 64 << 20


def output(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]}: {done.stderr or done.stdout}")
    return done.stdout


def rows(command):
    """{step: (GB/s, write amplification or nan)} of one of our own binaries."""
    lines = [line for line in output(command).splitlines() if not line.startswith("[")]  # of the log
    table = csv.DictReader(lines)
    return {row["step"]: (float(row["gb_per_s"]), float(row["write_amplification"] or "nan")) for row in table}


def children_cpu_s():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Peers:
    def __init__(self, args, directory):
        self.args, self.directory = args, directory
        self.bin = pathlib.Path(args.build) / "bin"

    def disk_tier(self, retained, suffix=""):
        found = rows([str(self.bin / "kvstore_disk_bench"), f"--directory={self.directory}/tier", f"--put={self.args.put}",
                      f"--disk-size={self.args.disk_size}", f"--retained={retained}"])
        return {step + suffix: figures for step, figures in found.items()}

    def fio(self, engine, depth):
        file = f"{self.directory}/fio"
        report = output(["fio", "--name=segments", f"--filename={file}", "--rw=write", f"--bs={RECORD_BYTES}", "--direct=1",
                         f"--size={size(self.args.disk_size)}", f"--io_size={size(self.args.put)}", "--fallocate=posix",
                         f"--fdatasync={SYNC_BYTES // RECORD_BYTES}", f"--ioengine={engine}", f"--iodepth={depth}",
                         "--output-format=json"])
        pathlib.Path(file).unlink()
        # Whatever fio says before its report, the report is an object of its own.
        written = json.loads(report[report.index("{"):])["jobs"][0]["write"]
        return {f"fio_{engine}_{depth}": (written["bw_bytes"] / 1e9, 1.0)}

    def rocksdb(self):
        return rows([str(self.bin / "rocksdb_blob_bench"), f"--directory={self.directory}/rocksdb", f"--put={self.args.put}",
                     f"--sync={SYNC_BYTES}"])

    def round(self):
        turns = [lambda: self.disk_tier(0), lambda: self.disk_tier(0.1, "_retaining")]
        if shutil.which("fio"):
            turns += [lambda: self.fio("psync", 1), lambda: self.fio("io_uring", 8)]
        if (self.bin / "rocksdb_blob_bench").exists():
            turns.append(self.rocksdb)
        found = {}
        for turn in turns:
            before_s = children_cpu_s()
            # Of the whole program, its reads and its payload's making too.
            for step, (gb_per_s, amplification) in turn().items():
                found[step] = (gb_per_s, amplification, children_cpu_s() - before_s)
            for path in pathlib.Path(self.directory).iterdir():
                shutil.rmtree(path)
        return found


def size(text):
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * factor
    return int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"))
    parser.add_argument("--directory", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--put", default="4GiB")
    parser.add_argument("--disk-size", default="2GiB")
    args = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="disk-peers-", dir=args.directory) as directory:
        for n in range(args.rounds):
            rounds.append(Peers(args, directory).round())
            shown = ", ".join(f"{step} {gb_per_s:.3f}" for step, (gb_per_s, *_) in rounds[-1].items())
            print(f"round {n + 1}, GB/s: {shown}", file=sys.stderr, flush=True)
    print("step,gb_per_s,write_amplification,disk_tier_to_it,program_cpu_s")
    for step in rounds[0]:
        ours = "segment_read" if "read" in step else "segment_write"
        ratio = statistics.median(found[ours][0] / found[step][0] for found in rounds)
        print(f"{step},{statistics.median(found[step][0] for found in rounds):.3f},"
              f"{statistics.median(found[step][1] for found in rounds):.3f},{ratio:.2f},"
              f"{statistics.median(found[step][2] for found in rounds):.2f}")


main()
