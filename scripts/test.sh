#!/bin/bash
# The whole check from a fresh clone: installs what is missing, builds, verifies that every public header compiles alone,
# runs the fast tests of the engine and of the parsers under the address and undefined-behaviour sanitizers, the tests
# of the vector kernels with the narrow ones, and all tests. Any failure ends it. Usage: scripts/test.sh [PRESET]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:-release}

scripts/install-deps.sh build test
# A tree that was configured before the test libraries were there has no tests.
for tree in "$preset" asan; do
  [ ! -f "build/$tree/build.ninja" ] || cmake --preset "$tree"
done
scripts/build.sh "$preset"
scripts/build.sh "$preset" all_verify_interface_header_sets

if [ "$preset" != asan ]; then
  scripts/build.sh asan fast_tests
  ctest --preset asan -L '^fast$' -j "$(nproc)" --no-tests=error
fi
# The best kernels of this machine are part of all tests, below.
LONGSHELF_KERNELS=avx2 ctest --preset "$preset" -L '^kernels$' -j "$(nproc)" --no-tests=error
exec ctest --preset "$preset" -j "$(nproc)" --no-tests=error
