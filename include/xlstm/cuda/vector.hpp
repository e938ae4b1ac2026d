// SPDX-License-Identifier: Apache-2.0
// A few adjacent values that are loaded, stored and copied as one, up to 16 bytes.
#pragma once

#include <bit>
#include <cstddef>

#include "xlstm/cuda/qualifiers.hpp"

namespace xlstm::cuda {

/// N values of T, aligned to their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  static_assert(std::has_single_bit(sizeof(T) * N) && sizeof(T) * N <= 16,
                "xlstm: a vector of device memory has 1, 2, 4, 8 or 16 bytes");
  using value_type = T;
  static constexpr int size = N;

  XLSTM_HOST_DEVICE constexpr T& operator[](int i) { return values[i]; }
  XLSTM_HOST_DEVICE constexpr const T& operator[](int i) const { return values[i]; }

  T values[N];
};

/// How many values of T make 16 bytes, the widest access.
template <class T>
inline constexpr int vector_width = 16 / static_cast<int>(sizeof(T));

}  // namespace xlstm::cuda
