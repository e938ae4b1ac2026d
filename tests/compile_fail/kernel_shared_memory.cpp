// expect: xlstm: a block has at most 227 KiB of shared memory
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/kernel.hpp"

struct Kernel {
  struct Tile : xlstm::cuda::SharedArray<float, 60000> {};
  using Shared = xlstm::cuda::SharedLayout<Tile>;
  static constexpr int threads = 32;
};
void check() { xlstm::cuda::check_kernel<Kernel>(); }
