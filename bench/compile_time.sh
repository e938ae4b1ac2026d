#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# How long the compiler takes for a program that uses one model, and how much memory:
#   bench/compile_time.sh [SOURCE [FLAG...]]        (CXX names the compiler; g++ otherwise)
# Without arguments the program is examples/embed.cpp. The flags come after -std=c++20 -O2 -march=native.
# One line for parsing the headers alone (-fsyntax-only instantiates what the front end must) and one for all of it.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
source=${1:-$root/examples/embed.cpp}
[ $# -eq 0 ] || shift
if [ ! -f "$source" ]; then
  echo "$source: no such file; a C++ source was expected" >&2
  exit 1
fi
compiler=${CXX:-g++}
eigen=$(pkg-config --cflags-only-I eigen3 2>/dev/null || echo -I/usr/include/eigen3)
object=$(mktemp)
trap 'rm -f "$object"' EXIT

measure() {
  what=$1
  shift
  python3 - "$what" "$@" <<'PYTHON'
import resource, subprocess, sys, time
best = None
for _ in range(3):
    begin = time.monotonic()
    code = subprocess.call(sys.argv[2:])
    if code:
        sys.exit(code)
    seconds = time.monotonic() - begin
    best = seconds if best is None else min(best, seconds)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"{sys.argv[1]:12s} {best:6.2f} s  {peak:6.0f} MiB  (best of 3)")
PYTHON
}

flags="-std=c++20 -O2 -march=native -DXLSTM_WITH_IO=1 -DXLSTM_WITH_TEXT=1 -I$root/include $eigen"
"$compiler" --version | head -n 1
# shellcheck disable=SC2086  # lists of words
measure "front end" "$compiler" $flags "$@" -fsyntax-only "$source"
# shellcheck disable=SC2086
measure "all" "$compiler" $flags "$@" -c "$source" -o "$object"
