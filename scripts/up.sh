#!/bin/bash
# From a fresh clone to a running local cluster. Arguments go to `longshelf up`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/build.sh release longshelf longshelf-kvstore longshelf-router longshelf-shard longshelf-worker
exec build/release/bin/longshelf up "$@"
