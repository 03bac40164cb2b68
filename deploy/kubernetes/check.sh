#!/bin/bash
# Holds what Kustomize makes of base and overlays against Kubernetes' own schemas: `check.sh [VERSION...]`, of
# Kubernetes, such as 1.29. Needs kubectl (or kustomize), and the network once, for the schemas.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ $# -gt 0 ] || set -- 1.29 1.33
build=(kubectl kustomize)
command -v kubectl > /dev/null || build=(kustomize build)

venv=${XDG_CACHE_HOME:-$HOME/.cache}/longshelf-kubernetes-check
if [ ! -x "$venv/bin/kubernetes-validate" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" -q install kubernetes-validate==1.33.1 PyYAML==6.0.2
fi
for place in base overlays/*; do
  "${build[@]}" "$place" | "$venv/bin/python" validate.py "$place" "$@"
done
