// expect: xlstm: a kernel is copied to the device: trivially copyable, at most 4096 bytes
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "xlstm/cuda/kernel.hpp"

struct Kernel {
  std::string name;
  static constexpr int threads = 32;
};
void check() { xlstm::cuda::check_kernel<Kernel>(); }
