// expect: xlstm: a kernel's `threads` is a multiple of 32 from 32 to 1024
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/kernel.hpp"

struct Kernel {
  static constexpr int threads = 100;
};
void check() { xlstm::cuda::check_kernel<Kernel>(); }
