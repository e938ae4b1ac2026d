// SPDX-License-Identifier: Apache-2.0
// Functions of kernels in fp32, the accurate versions (CUDA programming guide, "Mathematical Functions"): a GPU's
// results and the host's differ by at most 4 units in the last place. Conversions of elements are exact or rounded to
// nearest, ties to even, on both. nvcc must not be told --use_fast_math. σ and log σ are those of cell/gates.hpp.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "xlstm/cell/gates.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/cuda/qualifiers.hpp"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace xlstm::cuda {

XLSTM_HOST_DEVICE float exp(float x) { return ::expf(x); }
XLSTM_HOST_DEVICE float log(float x) { return ::logf(x); }
XLSTM_HOST_DEVICE double log(double x) { return ::log(x); }
XLSTM_HOST_DEVICE float log1p(float x) { return ::log1pf(x); }
XLSTM_HOST_DEVICE float tanh(float x) { return ::tanhf(x); }
XLSTM_HOST_DEVICE float sqrt(float x) { return ::sqrtf(x); }
XLSTM_HOST_DEVICE float abs(float x) { return ::fabsf(x); }
/// 1/√x.
XLSTM_HOST_DEVICE float rsqrt(float x) {
#if defined(__CUDA_ARCH__)
  return ::rsqrtf(x);
#else
  return 1.0F / ::sqrtf(x);
#endif
}
/// The larger; a NaN if either is one, so that it is not lost in a maximum.
XLSTM_HOST_DEVICE float max(float x, float y) { return x > y || x != x ? x : y; }

/// An element's value.
template <class T>
XLSTM_HOST_DEVICE float to_float(T x) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, f16>) return __half2float(__ushort_as_half(x.bits));
#endif
  return static_cast<float>(x);
}
/// The element nearest to x.
template <class T>
XLSTM_HOST_DEVICE T to_element(float x) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, bf16>) return bf16::from_bits(__bfloat16_as_ushort(__float2bfloat16_rn(x)));
  if constexpr (std::is_same_v<T, f16>) return f16::from_bits(__half_as_ushort(__float2half_rn(x)));
#endif
  return static_cast<T>(x);
}

/// Two elements nearest to two values, in a register (cuda/mma.hpp).
template <class T>
XLSTM_HOST_DEVICE std::uint32_t to_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, bf16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return __bfloat16_as_ushort(pair.x) | static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
  }
  if constexpr (std::is_same_v<T, f16>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return __half_as_ushort(pair.x) | static_cast<std::uint32_t>(__half_as_ushort(pair.y)) << 16;
  }
#endif
  return T(low).bits | static_cast<std::uint32_t>(T(high).bits) << 16;
}

}  // namespace xlstm::cuda
