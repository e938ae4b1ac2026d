#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles every kernel (tests/cuda/kernels.hpp) for each architecture with warnings as errors, and prints what each
# takes: registers, shared memory, and how much of a multiprocessor's threads that leaves it (occupancy). Fails where a
# kernel spills registers and tests/cuda/spills.txt does not allow it. Compiles a whole model, too. Needs nvcc; where
# there is none, says so.
#
#   scripts/kernels.sh [FOLDER [ARCHITECTURE...]]     FOLDER keeps what is made (default: build/cuda)
#
# FOLDER/kernels.md is the same table for readers; docs/cuda-kernels.md is a copy of it, for all three architectures.
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
# shellcheck source=scripts/packages.sh
. scripts/packages.sh

includes=(-Iinclude -Itests/cuda)
toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")

compile_kernels() {  # ARCHITECTURE
  local architecture=$1 number=${1#sm_}
  local of_architecture=("${includes[@]}" "-DXLSTM_ARCHITECTURE=${number%%[a-z]*}")
  "${CXX:-g++}" -std=c++20 -x c++ "${of_architecture[@]}" tests/cuda/kernels.cu -o "$folder/list_kernels-$architecture"
  "$folder/list_kernels-$architecture" >"$folder/kernels-$architecture.tsv"
  # Not -arch: for sm_90a and its like that compiles everything for sm_90, too.
  "$nvcc" -std=c++20 -gencode "arch=compute_$number,code=$architecture" --expt-relaxed-constexpr -Werror all-warnings \
    -Xcompiler -Wall,-Wextra,-Wconversion,-Wshadow -Xptxas -v "${of_architecture[@]}" \
    -c tests/cuda/kernels.cu -o "$folder/kernels-$architecture.o" >"$folder/$architecture.log" 2>&1 || {
    cat "$folder/$architecture.log"
    echo "The kernels do not compile for $architecture without a warning."
    return 1
  }
}

compile_model() {  # a whole model with cuda::Backend (tests/cuda/device_model.cu), for all architectures at once
  local architecture codes=()
  for architecture in "${architectures[@]}"; do
    codes+=(-gencode "arch=compute_${architecture#sm_},code=$architecture")
  done
  "$nvcc" -std=c++20 "${codes[@]}" --expt-relaxed-constexpr -Werror all-warnings -diag-suppress 1675 -DEIGEN_NO_CUDA \
    -Xcompiler -Wall,-Wextra,-Wconversion,-Wshadow -isystem "${EIGEN3_INCLUDE_DIR:-/usr/include/eigen3}" "${includes[@]}" \
    tests/cuda/device_model.cu -o "$folder/device_model" -lcublasLt
}

# As many at once as there are cores.
most=$(parallel_jobs)
processes=()
start() {
  [ ${#processes[@]} -lt "$most" ] || wait -n || true  # whether it failed is asked below
  "$@" &
  processes+=("$!")
}
model=
if [ -e "$toolkit/include/cublasLt.h" ] || [ -e /usr/include/cublasLt.h ]; then
  model=$folder/device_model
  start compile_model
fi
for architecture in "${architectures[@]}"; do start compile_kernels "$architecture"; done
for process in "${processes[@]}"; do wait "$process"; done

# The same by clang, where there is one that knows CUDA 13 well enough.
clang=${CLANG_CUDA:-$(command -v clang++-22 || true)}
if [ -n "$clang" ]; then
  "$clang" -std=c++20 -x cuda --cuda-path="$toolkit" --cuda-gpu-arch="${architectures[0]}" -Wno-unknown-cuda-version \
    "${includes[@]}" -c tests/cuda/kernels.cu -o "$folder/kernels-clang.o"
  echo "The kernels compile with $clang for ${architectures[0]}."
else
  echo "Left out: there is no clang++-22, so clang compiled no kernel for a GPU."
fi

if [ -n "$model" ]; then
  if said=$("$model" tests/data/models/tiny-f32 2>&1); then
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
document=$folder/kernels.md
cat >"$document" <<END
# Every kernel on a GPU: registers, shared memory, occupancy

What \`scripts/kernels.sh\` prints of $("$nvcc" --version | grep -o 'release [0-9.]*, V[0-9.]*' | sed 's/.*V/nvcc /'), and writes to \`build/cuda/kernels.md\`, of which this file is a copy. Kernels
and their template arguments are those of \`tests/cuda/kernels.hpp\`, at the sizes of the 7B or the nearest that shows
another path. Spilt: bytes of registers' values that a thread stores to memory; \`tests/cuda/spills.txt\` lists those
that may. Shared: bytes of a block. Occupancy: how much of a multiprocessor's threads registers and shared memory leave
it; a kernel on tensor cores that has much of its matrices in registers needs little. Cell is
\`MLSTMCell<8, 256, 512>\`, OwnCell the same with gates of a program's own; numbers behind types are vectors' widths; sm_90
and sm_100 behind a kernel are that architecture's sizes (\`mlstm_chunkwise_tuning.hpp\`), else those of sm_80.
END
for architecture in "${architectures[@]}"; do
  c++filt <"$folder/$architecture.log" | awk -v architecture="$architecture" -v document="$document" -F '\t' '
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
      printf "\n## %s\n\n| kernel | registers | spilt | threads | shared | occupancy |\n|---|---:|---:|---:|---:|---:|\n", \
        architecture >>document
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
        printf "| `%s` | %d | %s | %d | %d | %d %% |\n", name, registers[kernel], \
          (spills[kernel] + 0 == 0 ? "" : spills[kernel]), threads[kernel], shared[kernel], 100 * blocks * warps / 64 >>document
        if (spills[kernel] > allowed[architecture " " name] + 0) {
          print "It spills registers; tests/cuda/spills.txt does not allow so much."
          wrong = 1
        }
      }
      exit wrong
    }' tests/cuda/spills.txt "$folder/kernels-$architecture.tsv" - || status=1
done
# Names shorter: the cell of the 7B, enumerators, and no tuning but that of another architecture than sm_80.
sed -i -E '/^\| `/ {
  s/MLSTMCell<8l, 256l, 512l, MLSTMPolicy>/Cell/; s/MLSTMCell<8l, 256l, 512l, tests::OwnPolicy>/OwnCell/
  s/\(double\)\[403e000000000000\]/30/; s/\(NormKind\)0/rms/; s/\(NormKind\)1/centred/; s/\(NormKind\)2/gated/
  s/\(GradientOf\)0/query/; s/\(GradientOf\)1/key/; s/\(GradientOf\)2/value/
  s/([0-9])l([,>])/\1\2/g; s/, [A-Za-z]+Tuning([0-9]+)>`/> sm_\1`/; s/, [A-Za-z]+Tuning>/>/
  s/tests:://; s/Kernel([<`])/\1/; s/> >/>>/
}' "$document"
if [ "${architectures[*]}" = "sm_80 sm_90a sm_100" ] && ! cmp -s "$document" docs/cuda-kernels.md; then
  printf '\ndocs/cuda-kernels.md is not what this nvcc says: cp %s docs/cuda-kernels.md\n' "$document"
fi
exit $status
