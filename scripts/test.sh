#!/bin/bash
# The whole check from a fresh clone: installs what is missing, builds, verifies that every public header compiles alone,
# and runs all tests. Usage: scripts/test.sh [PRESET]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}

scripts/build.sh "$preset"
scripts/build.sh "$preset" all_verify_interface_header_sets
exec ctest --preset "$preset" -j "$(nproc)"
