#!/bin/bash
# Installs the Debian 12 packages that a part of longshelf needs. Does nothing, quietly, when all are there. Needs root
# only when something is missing. Usage: scripts/install-deps.sh [build|test|package]...; build unless given.
set -euo pipefail

# What building the programs and running them needs.
build=(
  # tools
  ca-certificates ccache cmake curl g++ mold ninja-build pkg-config python3
  # libraries: RPC and wire
  libabsl-dev libgrpc++-dev libprotobuf-dev libssl-dev protobuf-compiler protobuf-compiler-grpc
  # Boost.Asio and Boost.Beast; Debian's default, 1.74, is too old
  libboost1.81-dev
  # expert parallelism
  libopenmpi-dev openmpi-bin openssh-client
  # the rest
  libcli11-dev libfmt-dev libsimdjson-dev libspdlog-dev liburing-dev libxxhash-dev libyaml-cpp-dev libzstd-dev
  nlohmann-json3-dev prometheus-cpp-dev zlib1g-dev
)
# What tests need beyond that: formatting, real clients, units, Slurm, manifests, the package, and groups
# over hosts, which are network namespaces, with an sshd. Their services are neither started nor enabled.
test=(
  binutils clang-format clang-tidy dpkg-dev git groff-base iproute2 libbenchmark-dev libgmock-dev libgtest-dev lintian
  man-db munge nftables openssh-server python3-venv python3-yaml slurm-client slurmctld slurmd systemd
)
# What scripts/package.sh needs beyond building.
package=(dpkg-dev)

packages=()
commands=()
for part in "${@:-build}"; do
  case $part in
    build) packages+=("${build[@]}") ;;
    test)
      packages+=("${test[@]}")
      # Packages from elsewhere provide these two commands as well, and would conflict.
      commands+=(node:nodejs npm:npm)
      ;;
    package) packages+=("${package[@]}") ;;
    *) echo "install-deps: there are build, test and package, not $part" >&2; exit 64 ;;
  esac
done

missing=()
for command_package in "${commands[@]}"; do
  command -v "${command_package%:*}" >/dev/null || missing+=("${command_package#*:}")
done
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "install-deps: this script knows Debian 12 only; here, install the equivalents of: ${missing[*]}" >&2
  exit 69
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "install-deps: ${#missing[@]} packages are missing. As root, run:" >&2
  echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
  echo "(or: sudo $0 $*)" >&2
  exit 69
fi

# Tests start daemons of their own; a machine must not get an sshd for them.
policy=/usr/sbin/policy-rc.d
services=(ssh munge slurmctld slurmd)
unwanted=()
if [[ " $* " == *" test "* ]]; then
  for service in "${services[@]}"; do
    [ -e "/lib/systemd/system/$service.service" ] || unwanted+=("$service")
  done
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 0755 "$policy"
  fi
fi

echo "install-deps: installing ${#missing[@]} packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# Nothing of the machine's is removed for us: where another Boost is in the way, a person decides.
if ! apt-get install -qy --no-install-recommends --no-remove "${missing[@]}"; then
  echo "install-deps: apt-get failed (above). If libboost1.74-dev is in the way: apt-get remove libboost1.74-dev" >&2
  exit 69
fi
[ ${#unwanted[@]} -eq 0 ] || systemctl --quiet disable "${unwanted[@]}" 2>/dev/null || true
