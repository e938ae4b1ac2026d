// SPDX-License-Identifier: Apache-2.0
// How exactly the CPU backend multiplies matrices of floats where the processor multiplies shorter numbers faster (AMX,
// amx_tiles.hpp). Sums are fp32 in either case. On other processors, in products of few rows (decoding), and for
// everything that is no product of matrices, both are the same. The names are PyTorch's
// (torch.set_float32_matmul_precision).
#pragma once

#include "xlstm/core/index.hpp"

namespace xlstm::cpu {

/// Elements have all their 24 bits: what a multiplication in fp32 gives.
struct HighestPrecision {
  static constexpr Index bf16_parts = 3;
};

/// Elements have 16 bits: a product of two is off by 2^-18 of it on average, by 3·2^-16 at most. AMX makes
/// half as many products.
struct HighPrecision {
  static constexpr Index bf16_parts = 2;
};

}  // namespace xlstm::cpu
