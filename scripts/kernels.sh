#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles every kernel (tests/cuda/kernels.hpp) for each architecture with warnings as errors, and prints what each
# takes: registers, shared memory, and how much of a multiprocessor's threads that leaves it (occupancy). Fails where a
# kernel spills registers and tests/cuda/spills.txt does not allow it. Compiles a whole model, too. Needs nvcc; where
# there is none, says so.
#
#   scripts/kernels.sh [FOLDER [ARCHITECTURE...]]     FOLDER keeps what is made (default: build/cuda)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-build/cuda}
architectures=("${@:2}")
[ ${#architectures[@]} -gt 0 ] || architectures=(sm_80 sm_90a sm_100)

nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if ! "$nvcc" --version >/dev/null 2>&1; then
  echo "Left out: there is no nvcc (CUDA 13) in the PATH, so no kernel was compiled for a GPU."
  exit 0
fi
mkdir -p "$folder"

includes=(-Iinclude -Itests/cuda)
for architecture in "${architectures[@]}"; do
  number=${architecture#sm_}
  of_architecture=("${includes[@]}" "-DXLSTM_ARCHITECTURE=${number%%[a-z]*}")
  "${CXX:-g++}" -std=c++20 -x c++ "${of_architecture[@]}" tests/cuda/kernels.cu -o "$folder/list_kernels"
  "$folder/list_kernels" >"$folder/kernels-$architecture.tsv"
  "$nvcc" -std=c++20 -arch="$architecture" --expt-relaxed-constexpr -Werror all-warnings \
    -Xcompiler -Wall,-Wextra,-Wconversion,-Wshadow -Xptxas -v "${of_architecture[@]}" \
    -c tests/cuda/kernels.cu -o "$folder/kernels-$architecture.o" >"$folder/$architecture.log" 2>&1 || {
    cat "$folder/$architecture.log"
    echo "The kernels do not compile for $architecture without a warning."
    exit 1
  }
done

# The same by clang, where there is one that knows CUDA 13 well enough.
toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
clang=${CLANG_CUDA:-$(command -v clang++-22 || true)}
if [ -n "$clang" ]; then
  "$clang" -std=c++20 -x cuda --cuda-path="$toolkit" --cuda-gpu-arch="${architectures[0]}" -Wno-unknown-cuda-version \
    "${includes[@]}" -c tests/cuda/kernels.cu -o "$folder/kernels-clang.o"
  echo "The kernels compile with $clang for ${architectures[0]}."
else
  echo "Left out: there is no clang++-22, so clang compiled no kernel for a GPU."
fi

# A whole model with cuda::Backend (tests/cuda/device_model.cu), for all of them at once. It needs cuBLASLt.
if [ -e "$toolkit/include/cublasLt.h" ] || [ -e /usr/include/cublasLt.h ]; then
  codes=()
  for architecture in "${architectures[@]}"; do
    codes+=(-gencode "arch=compute_${architecture#sm_},code=$architecture")
  done
  "$nvcc" -std=c++20 "${codes[@]}" --expt-relaxed-constexpr -Werror all-warnings -diag-suppress 1675 -DEIGEN_NO_CUDA \
    -Xcompiler -Wall,-Wextra,-Wconversion,-Wshadow -isystem "${EIGEN3_INCLUDE_DIR:-/usr/include/eigen3}" "${includes[@]}" \
    tests/cuda/device_model.cu -o "$folder/device_model" -lcublasLt
  if said=$("$folder/device_model" tests/data/models/tiny-f32 2>&1); then
    echo "A model on this machine's GPU: $said"
  elif [[ $said == *"cuda: there is no device"* ]]; then
    echo "A model for a GPU compiles; there is none here: $said"
  else
    echo "A model on this machine's GPU fails: $said"
    exit 1
  fi
else
  echo "Left out: there is no cuBLASLt, so no whole model was compiled for a GPU."
fi

# The assembler's report of one architecture after the other, beside the list of kernels.
status=0
for architecture in "${architectures[@]}"; do
  c++filt <"$folder/$architecture.log" | awk -v architecture="$architecture" -F '\t' '
    function least(a, b) { return a < b ? a : b }
    FILENAME == ARGV[1] { if ($0 !~ /^#/ && NF) { split($0, word, " "); allowed[word[1] " " substr($0, length(word[1] " " word[2]) + 2)] = word[2] } next }
    FILENAME == ARGV[2] { threads[$1] = $2; shared[$1] = $3; order[++kernels] = $1; next }
    /Compiling entry function/ {
      kernel = $0
      sub(/^.*run_kernel</, "", kernel)
      sub(/ ?>\(.*$/, "", kernel)
    }
    /bytes spill stores/ { spills[kernel] = $0; sub(/^.*frame, /, "", spills[kernel]); sub(/ .*/, "", spills[kernel]) }
    /Used [0-9]+ registers/ { registers[kernel] = $0; sub(/^.*Used /, "", registers[kernel]); sub(/ .*/, "", registers[kernel]) }
    END {
      memory = architecture == "sm_80" ? 164 : 228  # KiB of a multiprocessor; each block takes one more (tuning guides)
      printf "\n%s: registers, spilt bytes, threads, shared bytes, occupancy\n", architecture
      for (i = 1; i <= kernels; ++i) {
        kernel = order[i]
        name = kernel
        gsub(/xlstm::(cuda::)?/, "", name)
        if (!(kernel in registers)) {
          print name ": the assembler says nothing about it"
          wrong = 1
          continue
        }
        warps = threads[kernel] / 32
        warp_registers = int((registers[kernel] * 32 + 255) / 256) * 256
        blocks = least(32, int(64 / warps))
        blocks = least(blocks, int(int(65536 / warp_registers / 4) * 4 / warps))
        blocks = least(blocks, int(memory * 1024 / (shared[kernel] + 1024)))
        printf "%4d %5d %5d %7d %4d%%  %s\n", registers[kernel], spills[kernel], threads[kernel], shared[kernel], \
          100 * blocks * warps / 64, name
        if (spills[kernel] > allowed[architecture " " name] + 0) {
          print "It spills registers; tests/cuda/spills.txt does not allow so much."
          wrong = 1
        }
      }
      exit wrong
    }' tests/cuda/spills.txt "$folder/kernels-$architecture.tsv" - || status=1
done
exit $status
