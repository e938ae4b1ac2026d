// SPDX-License-Identifier: Apache-2.0
// Functions of whole vectors: what the cell's gates need in double, as many at a time as a register holds, and
// exponentials in fp32. Straight code in the vector types of simd.hpp, the same on every machine.
#pragma once

#include <cstdint>
#include <cstring>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu::simd {

/// Half as many doubles as Floats has floats, and the integers of their size.
inline constexpr int double_width = width / 2;
typedef double Doubles __attribute__((vector_size(width * 4)));
typedef std::int64_t Longs __attribute__((vector_size(width * 4)));
typedef std::uint64_t LongWords __attribute__((vector_size(width * 4)));

inline Doubles broadcast(double x) { return x - Doubles{}; }
inline Doubles load(const double* p) {
  Doubles v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(double* p, Doubles v) { std::memcpy(p, &v, sizeof v); }
inline Doubles select(Longs mask, Doubles a, Doubles b) {
#if defined(__CUDACC__)  // nvcc has no choice between vectors
  return reinterpret_cast<Doubles>((reinterpret_cast<Longs>(a) & mask) | (reinterpret_cast<Longs>(b) & ~mask));
#else
  return mask ? a : b;
#endif
}

#if defined(XLSTM_SIMD_AVX512)
namespace detail {
template <int Half>
inline Doubles widen_half(Floats x) {
  const __m256d half = _mm512_maskz_extractf64x4_pd(0xff, reinterpret_cast<__m512d>(x), Half);
  return _mm512_maskz_cvtps_pd(0xff, reinterpret_cast<__m256>(half));
}
}  // namespace detail
#endif

/// The nearest floats of two vectors of doubles, and back.
inline Floats narrow(Doubles low, Doubles high) {
#if defined(XLSTM_SIMD_AVX512)
  const auto half = [](Doubles d) { return reinterpret_cast<__m256d>(_mm512_maskz_cvtpd_ps(0xff, d)); };
  return reinterpret_cast<Floats>(_mm512_maskz_insertf64x4(0xff, _mm512_castpd256_pd512(half(low)), half(high), 1));
#elif defined(XLSTM_SIMD_AVX2)
  return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
#else
  Floats x{};
  for (int i = 0; i < double_width; ++i) {
    x[i] = static_cast<float>(low[i]);
    x[i + double_width] = static_cast<float>(high[i]);
  }
  return x;
#endif
}
inline Doubles widen_low(Floats x) {
#if defined(XLSTM_SIMD_AVX512)
  return detail::widen_half<0>(x);
#elif defined(XLSTM_SIMD_AVX2)
  return _mm256_cvtps_pd(_mm256_castps256_ps128(x));
#else
  Doubles d{};
  for (int i = 0; i < double_width; ++i) d[i] = static_cast<double>(x[i]);
  return d;
#endif
}
inline Doubles widen_high(Floats x) {
#if defined(XLSTM_SIMD_AVX512)
  return detail::widen_half<1>(x);
#elif defined(XLSTM_SIMD_AVX2)
  return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
#else
  Doubles d{};
  for (int i = 0; i < double_width; ++i) d[i] = static_cast<double>(x[i + double_width]);
  return d;
#endif
}
/// x[0..width) − y as floats: differences of large numbers, of which only the difference is small enough for fp32.
inline Floats differences(const double* x, double y) {
  const Doubles from = broadcast(y);
  return narrow(load(x) - from, load(x + double_width) - from);
}

/// The first `count` lanes, zeros after them; all lanes from a count of `width` on.
inline Floats first_of(Floats x, Index count) {
  if (count >= width) return x;
#if defined(XLSTM_SIMD_AVX512)
  return _mm512_maskz_mov_ps(first_lanes(count), x);
#else
  Ints lane;
  for (int i = 0; i < width; ++i) lane[i] = i;
  return select(lane < static_cast<std::int32_t>(count), x, zero());
#endif
}

/// e^x for x ≤ 0, with a relative error below 2^-21.9: 2^n times a polynomial on |r| ≤ ln 2 / 2. Below −87 it is 0, of
/// a NaN a NaN.
inline Floats exp_of_negative(Floats x) {
  const Floats none = broadcast(-87.0F);
  const Floats bounded = max(none, x);        // x where it is a NaN
  const Floats shift = broadcast(0x1.8p23F);  // adding and subtracting it rounds to an integer
  const Floats shifted = fma(bounded, broadcast(0x1.715476p+0F), shift);
  const Floats n = shifted - shift;
  // ln 2 in two parts, the first short enough for n times it to be exact.
  Floats r = fma(n, broadcast(-0x1.62e4p-1F), bounded);
  r = fma(n, broadcast(-0x1.7f7d1cp-20F), r);
  Floats p = broadcast(1.0F / 720);
  p = fma(p, r, broadcast(1.0F / 120));
  p = fma(p, r, broadcast(1.0F / 24));
  p = fma(p, r, broadcast(1.0F / 6));
  p = fma(p, r, broadcast(0.5F));
  p = fma(p, r, broadcast(1.0F));
  p = fma(p, r, broadcast(1.0F));
  const Words power = (as_words(shifted) + 127U) << 23;  // the lowest bits of `shifted` are n
  return select(x < none, zero(), p * as_floats(power));
}

/// σ(x) with a relative error below 2^-20.9; below −87 it is 0, of a NaN a NaN.
inline Floats sigmoid(Floats x) {
  const Floats e = exp_of_negative(as_floats(as_words(x) | 0x80000000U));
  return select(x < 0.0F, e, broadcast(1.0F)) / (1.0F + e);
}

/// e^x with a relative error below 2^-51 for |x| ≤ 708; what lies beyond counts as ±708, and a NaN stays one.
inline Doubles exp(Doubles x) {
  const Doubles most = broadcast(708.0);
  const Doubles bounded = select(x < -most, -most, select(x > most, most, x));
  const Doubles shift = broadcast(0x1.8p52);
  const Doubles shifted = bounded * 0x1.71547652b82fep+0 + shift;
  const Doubles n = shifted - shift;
  const Doubles r = (bounded - n * 0x1.62e42fefa3800p-1) - n * 0x1.ef35793c76730p-45;
  // The Taylor polynomial of degree 13.
  Doubles p = broadcast(1.0 / 6227020800);
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * reinterpret_cast<Doubles>((reinterpret_cast<LongWords>(shifted) + 1023U) << 52);
}

/// log(1 + x) for 0 ≤ x ≤ 1, with a relative error below 2^-50: log(1 + f) = 2 artanh(f / (2 + f)), where f is x, or
/// that of half of 1 + x.
inline Doubles log1p_of_unit(Doubles x) {
  const Longs large = x > 0.41421356237309505;
  const Doubles f = select(large, (x - 1.0) * 0.5, x);
  const Doubles s = f / (f + 2.0);
  const Doubles z = s * s;  // at most 0.0295
  Doubles p = broadcast(1.0 / 21);
  p = p * z + 1.0 / 19;
  p = p * z + 1.0 / 17;
  p = p * z + 1.0 / 15;
  p = p * z + 1.0 / 13;
  p = p * z + 1.0 / 11;
  p = p * z + 1.0 / 9;
  p = p * z + 1.0 / 7;
  p = p * z + 1.0 / 5;
  p = p * z + 1.0 / 3;
  p = p * z + 1.0;
  return 2.0 * s * p + select(large, broadcast(0.69314718055994531), Doubles{});
}

inline Doubles negative_size(Doubles x) { return select(x > 0.0, -x, x); }

/// tanh x with an absolute error below 2^-51.
inline Doubles tanh(Doubles x) {
  const Doubles e = exp(2.0 * negative_size(x));
  const Doubles size = (1.0 - e) / (1.0 + e);
  return select(x < 0.0, -size, size);
}

/// log σ(x) and σ(x), with a relative error of a few units in the last place.
inline Doubles log_sigmoid(Doubles x) { return select(x < 0.0, x, Doubles{}) - log1p_of_unit(exp(negative_size(x))); }
inline Doubles sigmoid(Doubles x) {
  const Doubles e = exp(negative_size(x));
  return select(x < 0.0, e, broadcast(1.0)) / (1.0 + e);
}

/// to[i] = f(x[i]) for whole vectors that cover [0, count): both reach to a multiple of double_width.
template <class F>
inline void transform(const double* x, Index count, double* to, F f) {
  for (Index i = 0; i < count; i += double_width) store(to + i, f(load(x + i)));
}

}  // namespace xlstm::cpu::simd
