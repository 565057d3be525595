#!/bin/bash
# Compiles the binding into build/libvirt.node, unless it is there, newer than its sources, and made for this machine.
# With --check only tells, by its exit code, whether it is. Needs g++, pkg-config and libvirt-dev; about 7 seconds and
# 450 MB of memory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

machine="$(uname -m), $(getconf GNU_LIBC_VERSION), libvirt $(pkg-config --modversion libvirt)"
if [ -e build/libvirt.node ] && [ "$(cat build/machine 2>/dev/null)" = "$machine" ] &&
  [ -z "$(find src build.sh -type f -newer build/libvirt.node -print -quit)" ]; then
  exit 0
fi
[ "${1:-}" != --check ] || exit 1

modules=$PWD
while [ ! -d "$modules/node_modules/node-addon-api" ]; do
  [ "$modules" != / ] || { echo 'libvirt binding: node-addon-api is not installed; run npm ci first' >&2; exit 1; }
  modules=$(dirname "$modules")
done
modules=$modules/node_modules

# Written beside and renamed: a process that has the old one loaded keeps it, and a build cut short leaves no half file.
# Unthrowable: into a worker thread that is being ended no exception can be thrown; the process must not die of that.
# -z now: a function that this libvirt lacks fails when the addon is loaded, not in the middle of a save.
mkdir -p build
partial=build/libvirt.node.$$
trap 'rm -f "$partial"' EXIT
# shellcheck disable=SC2046
"${CXX:-g++}" -std=c++20 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -DNAPI_VERSION=9 \
  -DNAPI_CPP_EXCEPTIONS -DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS \
  -isystem "$modules/node-addon-api" -isystem "$modules/node-api-headers/include" $(pkg-config --cflags libvirt libvirt-qemu) \
  src/libvirt.cc -o "$partial" $(pkg-config --libs libvirt libvirt-qemu) -Wl,-z,now -s
mv "$partial" build/libvirt.node
echo "$machine" >build/machine
