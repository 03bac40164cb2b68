#!/bin/bash
# From a fresh clone to a Debian package in build/release/packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/build.sh release to_install
scripts/install-deps.sh package
cd build/release
cpack -G DEB
