#!/bin/bash
# The whole suite under the address and undefined-behaviour sanitizers, then under the thread sanitizer. Hours on two
# cores: a person runs it, before a release or after a change of threads or memory. Goes on to the second after a failure
# of the first, and fails when either did. Usage: scripts/sanitize.sh [asan|tsan]...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -gt 0 ] || set -- asan tsan

scripts/install-deps.sh build test
failed=()
for preset in "$@"; do
  scripts/build.sh "$preset"
  ctest --preset "$preset" -j "$(nproc)" || failed+=("$preset")
done
[ ${#failed[@]} -eq 0 ] || { echo "sanitize: failed under ${failed[*]}" >&2; exit 1; }
