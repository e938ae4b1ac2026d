# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034
# Which Debian and Ubuntu packages each task needs, and how they get there. Sourced by ./demo, ./test and .ci/run.
# All that is said here goes to standard error.

# Debian 12's g++ and everything later will do; Ubuntu 22.04's default is older, and it has g++-12 beside it.
compiler_package=g++
if grep -qs '^VERSION_ID="22.04"' /etc/os-release; then
  compiler_package=g++-12
fi
build_packages="$compiler_package cmake ninja-build libeigen3-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev"
test_packages="$build_packages catch2 libboost-context-dev"
# clang-format 14 it is, because versions differ in what they make of the same style.
ci_packages="$test_packages clang-19 libclang-rt-19-dev clang-format-14 doxygen libbenchmark-dev ccache"

# The compiler to configure with: CXX, or g++, or the one that compiler_package names.
choose_compiler() {
  if [ -z "${CXX:-}" ]; then
    CXX=$compiler_package
    export CXX
  fi
}

# How many compilers at once: as many as there are processors, but each with 2 GiB of memory.
parallel_jobs() {
  jobs=$(nproc 2>/dev/null || echo 1)
  memory=$(awk '/^MemAvailable:/ {print int($2 / 2097152)}' /proc/meminfo 2>/dev/null || echo 1)
  [ "${memory:-1}" -ge 1 ] || memory=1
  [ "$jobs" -le "$memory" ] || jobs=$memory
  echo "$jobs"
}

# require_packages PACKAGE...: installs with apt what is not there, as root or where sudo asks for no password.
# Where it may not, says which command would, and fails.
require_packages() {
  if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "This is not Debian or Ubuntu, so nothing is installed here; needed is what these packages have: $*" >&2
    return 0
  fi
  missing=""
  for package in "$@"; do
    case $(dpkg-query -W -f='${db:Status-Status} ' "$package" 2>/dev/null) in
      installed*) ;;
      *) missing="$missing $package" ;;
    esac
  done
  [ -n "$missing" ] || return 0

  if [ "$(id -u)" -eq 0 ]; then
    as_root=""
  elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
  else
    echo "These packages are missing, and only root may install them:$missing" >&2
    echo "  sudo apt-get update && sudo apt-get install --no-install-recommends$missing" >&2
    return 1
  fi
  echo "Installing:$missing" >&2
  # shellcheck disable=SC2086  # lists of words
  $as_root apt-get -q -o DPkg::Lock::Timeout=300 update >&2 </dev/null ||
    echo "apt-get update failed; going on with the package lists that are here." >&2
  # shellcheck disable=SC2086
  if ! $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing >&2 </dev/null; then
    echo "apt-get could not install:$missing" >&2
    return 1
  fi
}
