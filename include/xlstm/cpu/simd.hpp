// SPDX-License-Identifier: Apache-2.0
// The vector of floats of the machine compiled for, and the few operations that kernels need beyond + − · /.
// AVX-512F: 16 floats; AVX2 with FMA: 8; everything else: 4, in the compilers' own vector types, without intrinsics.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "xlstm/core/element.hpp"
#include "xlstm/core/index.hpp"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace xlstm::cpu::simd {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define XLSTM_SIMD_AVX512 1
inline constexpr int width = 16;
inline constexpr int registers = 32;
#elif defined(__AVX2__) && defined(__FMA__)
#define XLSTM_SIMD_AVX2 1
inline constexpr int width = 8;
inline constexpr int registers = 16;
#else
inline constexpr int width = 4;
inline constexpr int registers = 16;
#endif

/// `width` floats, ints, unsigned ints or 16-bit patterns. + − · / and comparisons are the compiler's.
typedef float Floats __attribute__((vector_size(width * 4)));
typedef std::int32_t Ints __attribute__((vector_size(width * 4)));
typedef std::uint32_t Words __attribute__((vector_size(width * 4)));
typedef std::uint16_t Halves __attribute__((vector_size(width * 2)));

inline Floats zero() { return Floats{}; }
inline Floats broadcast(float x) { return x - Floats{}; }
inline Floats as_floats(Words x) { return reinterpret_cast<Floats>(x); }
inline Words as_words(Floats x) { return reinterpret_cast<Words>(x); }

/// a·b + c; one rounding where the machine has it.
inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(XLSTM_SIMD_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(XLSTM_SIMD_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

/// √x. (A loop of std::sqrt is not made of vectors: it may have to set errno.)
inline Floats sqrt(Floats x) {
#if defined(XLSTM_SIMD_AVX512)
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(XLSTM_SIMD_AVX2)
  return _mm256_sqrt_ps(x);
#else
  for (int i = 0; i < width; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

/// Picks `a` where the mask (all ones or all zeros a lane, as comparisons give) is set, `b` elsewhere.
inline Floats select(Ints mask, Floats a, Floats b) {
#if defined(__CUDACC__)  // nvcc has no choice between vectors
  const Words m = reinterpret_cast<Words>(mask);
  return as_floats((as_words(a) & m) | (as_words(b) & ~m));
#else
  return mask ? a : b;
#endif
}

/// a > b ? a : b and a < b ? a : b: the second argument where one is a NaN.
#if defined(XLSTM_SIMD_AVX512)
inline Floats max(Floats a, Floats b) { return _mm512_maskz_max_ps(0xffff, a, b); }
inline Floats min(Floats a, Floats b) { return _mm512_maskz_min_ps(0xffff, a, b); }
#elif defined(XLSTM_SIMD_AVX2)
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
#else
inline Floats max(Floats a, Floats b) { return select(a > b, a, b); }
inline Floats min(Floats a, Floats b) { return select(a < b, a, b); }
#endif

// ---- memory: no alignment beyond that of bytes is asked for; a partial load or store touches `count` elements only

#if defined(XLSTM_SIMD_AVX512)
inline __mmask16 first_lanes(Index count) { return static_cast<__mmask16>((1U << count) - 1U); }
#endif

inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

/// The 16-bit patterns as floats.
inline Floats expand_bf16(Halves h) {
#if defined(XLSTM_SIMD_AVX512)
  return as_floats(reinterpret_cast<Words>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(h))) << 16);
#else
  return as_floats(__builtin_convertvector(h, Words) << 16);
#endif
}
inline Floats expand_f16(Halves h) {
#if defined(XLSTM_SIMD_AVX512)
  return _mm512_maskz_cvtph_ps(0xffff, reinterpret_cast<__m256i>(h));
#elif defined(XLSTM_SIMD_AVX2) && defined(__F16C__)
  return _mm256_cvtph_ps(reinterpret_cast<__m128i>(h));
#else
  // The exponent's bias is 112 too small after the shift; infinities and NaNs get the largest exponent.
  const Words w = __builtin_convertvector(h, Words);
  const Words magnitude = (w & 0x7fffU) << 13;
  const Words special = reinterpret_cast<Words>(magnitude >= 0x0f800000U) & 0x7f800000U;
  return as_floats(as_words(as_floats(magnitude) * 0x1p112F) | special | (w & 0x8000U) << 16);
#endif
}

/// The nearest bf16, of two equally near ones the even one; a NaN stays one.
inline Floats round_to_bf16(Floats x) {
  const Words bits = as_words(x);
  const Floats rounded = as_floats((bits + 0x7fffU + (bits >> 16 & 1U)) & 0xffff0000U);
  return select(x != x, as_floats((bits & 0xffff0000U) | 0x00400000U), rounded);
}

inline Halves load_halves(const void* p) {
  Halves h;
  std::memcpy(&h, p, sizeof h);
  return h;
}
inline Floats load(const bf16* p) { return expand_bf16(load_halves(p)); }
inline Floats load(const f16* p) { return expand_f16(load_halves(p)); }

/// Of 2·width elements those with even and those with odd numbers.
inline Words load_pairs(const bf16* p) {
  Words w;
  std::memcpy(&w, p, sizeof w);
  return w;
}
inline Floats load_even(const bf16* p) {
  return as_floats(std::endian::native == std::endian::little ? load_pairs(p) << 16 : load_pairs(p) & 0xffff0000U);
}
inline Floats load_odd(const bf16* p) {
  return as_floats(std::endian::native == std::endian::little ? load_pairs(p) & 0xffff0000U : load_pairs(p) << 16);
}

/// The first `count` < width elements, zeros after them.
inline Floats load_partial(const float* p, Index count) {
#if defined(XLSTM_SIMD_AVX512)
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
#else
  Floats v = zero();
  std::memcpy(&v, p, static_cast<std::size_t>(count) * sizeof(float));
  return v;
#endif
}
inline Halves load_halves_partial(const void* p, Index count) {
#if defined(XLSTM_SIMD_AVX512)
  return reinterpret_cast<Halves>(_mm256_maskz_loadu_epi16(first_lanes(count), p));
#else
  Halves h = {};
  std::memcpy(&h, p, static_cast<std::size_t>(count) * 2);
  return h;
#endif
}
inline Floats load_partial(const bf16* p, Index count) { return expand_bf16(load_halves_partial(p, count)); }
inline Floats load_partial(const f16* p, Index count) { return expand_f16(load_halves_partial(p, count)); }

inline void store_partial(float* p, Floats v, Index count) {
#if defined(XLSTM_SIMD_AVX512)
  _mm512_mask_storeu_ps(p, first_lanes(count), v);
#else
  std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
#endif
}

/// The first `count` ≤ width elements.
inline Floats load_first(const float* p, Index count) { return count == width ? load(p) : load_partial(p, count); }
inline void store_first(float* p, Floats v, Index count) {
  if (count == width) return store(p, v);
  store_partial(p, v, count);
}

/// Calls f(first, lanes) for the vectors that cover [0, count): `width` lanes each, fewer in the last.
template <class F>
inline void for_each_vector(Index count, F f) {
  Index i = 0;
  for (; i + width <= count; i += width) f(i, Index{width});
  if (i < count) f(i, count - i);
}

// ---- quantised weights: integers as floats

/// The bf16 in every lane.
inline Floats broadcast(bf16 x) {
#if defined(XLSTM_SIMD_AVX512)
  return as_floats(reinterpret_cast<Words>(_mm512_set1_epi16(static_cast<short>(x.bits))) << 16);
#elif defined(XLSTM_SIMD_AVX2)
  return as_floats(reinterpret_cast<Words>(_mm256_set1_epi16(static_cast<short>(x.bits))) << 16);
#else
  return broadcast(static_cast<float>(x));
#endif
}

typedef std::uint8_t Bytes __attribute__((vector_size(width)));
typedef std::int8_t SignedBytes __attribute__((vector_size(width)));

/// `width` signed bytes.
inline Floats load_int8(const std::uint8_t* p) {
#if defined(XLSTM_SIMD_AVX512)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, bytes));
#elif defined(XLSTM_SIMD_AVX2)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  SignedBytes bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
#endif
}

/// What four bits stand for: scale · (code − 8). AVX-512 looks all sixteen values up in a register.
struct FourBitLevels {
#if defined(XLSTM_SIMD_AVX512)
  explicit FourBitLevels(Floats scale)
      : values(scale * Floats{-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}) {}
  Floats lower(const std::uint8_t* p) const { return look_up(load_bytes(p)); }
  Floats upper(const std::uint8_t* p) const { return look_up(load_bytes(p) >> 4); }
  Floats look_up(Words codes) const {
    return _mm512_maskz_permutexvar_ps(0xffff, reinterpret_cast<__m512i>(codes), values);
  }
  static Words load_bytes(const std::uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return reinterpret_cast<Words>(_mm512_maskz_cvtepu8_epi32(0xffff, bytes));
  }
  Floats values;
#else
  explicit FourBitLevels(Floats s) : scale(s), least(s * -8.0F) {}
  /// The lower and the upper halves of `width` bytes.
  Floats lower(const std::uint8_t* p) const { return value(load_bytes(p) & 15U); }
  Floats upper(const std::uint8_t* p) const { return value(load_bytes(p) >> 4); }
  Floats value(Words codes) const {
    return fma(__builtin_convertvector(reinterpret_cast<Ints>(codes), Floats), scale, least);
  }
  static Words load_bytes(const std::uint8_t* p) {
#if defined(XLSTM_SIMD_AVX2)
    return reinterpret_cast<Words>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    Bytes bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return __builtin_convertvector(bytes, Words);
#endif
  }
  Floats scale, least;
#endif
};

inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

// ---- lanes

namespace detail {
/// The lanes `From` of a and b together, which is what __builtin_shufflevector gives; nvcc cannot count its arguments
/// where they are a pack.
template <int... From>
inline Floats lanes(Floats a, Floats b) {
#if defined(__CUDACC__)
  return Floats{(From < width ? a[From % width] : b[From % width])...};
#else
  return __builtin_shufflevector(a, b, From...);
#endif
}
template <int Step, std::size_t... Lane>
inline void exchange(Floats& a, Floats& b, std::index_sequence<Lane...>) {
  const Floats x = a, y = b;
  a = lanes<(static_cast<int>(Lane) & Step ? width + static_cast<int>(Lane) - Step : static_cast<int>(Lane))...>(x, y);
  b = lanes<(static_cast<int>(Lane) & Step ? width + static_cast<int>(Lane) : static_cast<int>(Lane) + Step)...>(x, y);
}
template <int Step, int Count = width>
inline void transpose_step(Floats* v) {
  if constexpr (Step > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < Count; ++i) {
      if ((i & Step) == 0) exchange<Step>(v[i], v[i + Step], std::make_index_sequence<width>());
    }
    transpose_step<Step / 2, Count>(v);
  }
}
/// Of each four lanes numbers First and First + 1: of a, of b, of a, of b.
template <int First, std::size_t... Lane>
inline Floats unpack(Floats a, Floats b, std::index_sequence<Lane...>) {
  return lanes<(static_cast<int>(Lane) / 4 * 4 + First + static_cast<int>(Lane) % 4 / 2 +
                (Lane % 2 != 0 ? width : 0))...>(a, b);
}
template <int Step, std::size_t... Lane>
inline Floats rotate(Floats v, std::index_sequence<Lane...>) {
  return lanes<(static_cast<int>(Lane) ^ Step)...>(v, v);
}
template <int Step>
inline Floats add_across(Floats v) {
  if constexpr (Step == 0) {
    return v;
  } else {
    return add_across<Step / 2>(v + rotate<Step>(v, std::make_index_sequence<width>()));
  }
}
template <int Step>
inline Floats max_across(Floats v) {
  if constexpr (Step == 0) {
    return v;
  } else {
    return max_across<Step / 2>(max(v, rotate<Step>(v, std::make_index_sequence<width>())));
  }
}
/// Lanes without bit Step: a[lane] + a[lane ^ Step]; lanes with it: the same of b.
template <int Step, std::size_t... Lane>
inline Floats add_across_two(Floats a, Floats b, std::index_sequence<Lane...>) {
  constexpr auto index = [](int lane, int flip) { return ((lane & Step) != 0 ? width : 0) + (lane ^ flip); };
  return lanes<index(static_cast<int>(Lane), 0)...>(a, b) + lanes<index(static_cast<int>(Lane), Step)...>(a, b);
}
}  // namespace detail

/// The even lanes of a and b, and the odd ones.
template <std::size_t... Lane>
inline void split_pairs(Floats a, Floats b, Floats& even, Floats& odd, std::index_sequence<Lane...>) {
  even = detail::lanes<(2 * static_cast<int>(Lane))...>(a, b);
  odd = detail::lanes<(2 * static_cast<int>(Lane) + 1)...>(a, b);
}
inline void split_pairs(Floats a, Floats b, Floats& even, Floats& odd) {
  split_pairs(a, b, even, odd, std::make_index_sequence<width>());
}

/// Transposes the width × width matrix whose rows are v[0], …, v[width − 1].
inline void transpose(Floats* v) { detail::transpose_step<width / 2>(v); }

/// v[c] becomes column c of the width × width matrix whose rows begin at `from` and lie `stride` floats apart.
inline void load_transposed(const float* from, Index stride, Floats* v) {
#if defined(XLSTM_SIMD_AVX512)
  // A load may put four floats anywhere into a vector on its way: half of the shuffles of transpose().
  for (int c = 0; c < width; c += 4) {
    __m512 rows[4];  // rows r, r + 4, r + 8 and r + 12
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const auto four = [&](Index row) { return _mm_loadu_ps(from + row * stride + c); };
      rows[r] = _mm512_castps128_ps512(four(r));
      rows[r] = _mm512_insertf32x4(rows[r], four(r + 4), 1);
      rows[r] = _mm512_insertf32x4(rows[r], four(r + 8), 2);
      rows[r] = _mm512_insertf32x4(rows[r], four(r + 12), 3);
    }
    const auto as_floats = [&](int r) { return reinterpret_cast<Floats>(rows[r]); };
    constexpr auto quarters = std::make_index_sequence<width>();
    const Floats low = detail::unpack<0>(as_floats(0), as_floats(2), quarters),
                 low2 = detail::unpack<0>(as_floats(1), as_floats(3), quarters),
                 high = detail::unpack<2>(as_floats(0), as_floats(2), quarters),
                 high2 = detail::unpack<2>(as_floats(1), as_floats(3), quarters);
    v[c] = detail::unpack<0>(low, low2, quarters);
    v[c + 1] = detail::unpack<2>(low, low2, quarters);
    v[c + 2] = detail::unpack<0>(high, high2, quarters);
    v[c + 3] = detail::unpack<2>(high, high2, quarters);
  }
#else
  for (int i = 0; i < width; ++i) v[i] = load(from + i * stride);
  transpose(v);
#endif
}

/// The first width / 2 columns of the matrix whose rows are v: v[c] becomes column c. The other vectors are lost.
template <std::size_t... Lane>
inline void transpose_first_half(Floats* v, std::index_sequence<Lane...>) {
  constexpr int half = width / 2;
  for (int i = 0; i < half; ++i) {
    v[i] = detail::lanes<(static_cast<int>(Lane) < half ? static_cast<int>(Lane)
                                                        : width + static_cast<int>(Lane) - half)...>(v[i], v[i + half]);
  }
  detail::transpose_step<half / 2, half>(v);
}
inline void transpose_first_half(Floats* v) { transpose_first_half(v, std::make_index_sequence<width>()); }

/// The sum of all lanes, always added in the same order.
inline float reduce_add(Floats v) { return detail::add_across<width / 2>(v)[0]; }

/// reduce_add of four vectors, bit for bit, in about a third of the work.
inline void reduce_add_four(const Floats (&v)[4], float* sums) {
  constexpr auto lanes = std::make_index_sequence<width>();
  const Floats ab = detail::add_across_two<width / 2>(v[0], v[1], lanes);
  const Floats cd = detail::add_across_two<width / 2>(v[2], v[3], lanes);
  const Floats all = detail::add_across<width / 8>(detail::add_across_two<width / 4>(ab, cd, lanes));
  sums[0] = all[0];
  sums[1] = all[width / 2];
  sums[2] = all[width / 4];
  sums[3] = all[width / 2 + width / 4];
}

inline float reduce_max(Floats v) { return detail::max_across<width / 2>(v)[0]; }

// ---- arrays of floats; the order of additions depends on `count` alone

inline float sum(const float* x, Index count) {
  Floats total = zero();
  const Index whole = count - count % width;
  for (Index i = 0; i < whole; i += width) total += load(x + i);
  float result = reduce_add(total);
  for (Index i = whole; i < count; ++i) result += x[i];
  return result;
}

inline float dot(const float* x, const float* y, Index count) {
  Floats total = zero();
  const Index whole = count - count % width;
  for (Index i = 0; i < whole; i += width) total += load(x + i) * load(y + i);
  float result = reduce_add(total);
  for (Index i = whole; i < count; ++i) result += x[i] * y[i];
  return result;
}

}  // namespace xlstm::cpu::simd
