// expect: xlstm: shared arrays are aligned to a power of two from 16 to 1024 bytes
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/shared.hpp"

constexpr auto bytes = xlstm::cuda::SharedArray<float, 4, 8>::bytes;
