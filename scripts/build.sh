#!/bin/bash
# Installs what is missing, configures and builds. Usage: scripts/build.sh [PRESET [TARGET...]]; the preset is release
# unless given, the targets are all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}
[ $# -eq 0 ] || shift

scripts/install-deps.sh
# One compiler per core, but never more than memory allows at 1.5 GB each.
memory_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
jobs=$(nproc)
fitting=$((memory_kb / 1500000))
[ "$fitting" -ge "$jobs" ] || jobs=$fitting
[ "$jobs" -ge 1 ] || jobs=1

[ -f "build/$preset/build.ninja" ] || cmake --preset "$preset"
cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"}
