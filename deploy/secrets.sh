#!/bin/bash
# Makes the secrets of a cluster in a directory, those that are not there yet: the token that the parts share, the one
# that /metrics asks for, the secret that tenants are kept apart with, and a first API key. Usage: secrets.sh DIRECTORY
set -euo pipefail
directory=${1:?a directory}
umask 077
mkdir -p "$directory"
cd "$directory"
random() { head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
for name in token admin-token tenant-secret; do
  [ -s "$name" ] || random > "$name"
done
[ -s api-keys ] || echo "user:sk-$(random)" > api-keys
echo "$PWD: $(ls | tr '\n' ' ')"
