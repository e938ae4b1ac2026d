// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights with activations that are rounded to 8 bits, in integers (AVX512-VNNI), where turning
// codes into floats costs more than reading them. 64 columns of an input row share a scale,
//     y(r, o) = Σ_blocks scale_x · Σ_groups scale_w · Σ_i code_w(o, i) · code_x(r, i),
// the inner sum exact. What that costs in quality is in docs/quantization.md. The instruction multiplies unsigned by
// signed bytes: codes of weights are taken as code + 128 (int8) or code + 8 (int4), and sums begin with what that adds
// too much. Here: rounding, and the products of very few rows; integer_product.hpp has those of more.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/quantization.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/quantized_rows.hpp"
#include "xlstm/cpu/row_products.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu {

/// Activations stay float in products with quantised weights.
struct FloatActivations {};
/// Activations that meet quantised weights are rounded to 8 bits, if the machine compiled for has AVX512-VNNI;
/// otherwise they stay float.
struct Int8Activations {};

#if defined(XLSTM_SIMD_AVX512) && defined(__AVX512VNNI__)

inline constexpr bool has_integer_products = true;

namespace detail {

/// Columns of an input row that share a scale.
inline constexpr Index integer_block = 64;

inline simd::Floats as_floats(__m512i x) { return reinterpret_cast<simd::Floats>(_mm512_maskz_cvtepi32_ps(0xffff, x)); }
inline __mmask64 first_bytes(Index count) { return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1; }

/// The codes of `count` ≤ 64 values at x; zeros after them. Returns their scale.
inline float round_block(const float* x, Index count, std::int8_t (&codes)[integer_block]) {
  simd::Floats value[4];
  simd::Floats largest = simd::zero();
  bool finite = true;
  for (Index i = 0; i < 4; ++i) {
    const Index left = std::clamp<Index>(count - i * simd::width, 0, simd::width);
    value[i] = left == simd::width ? simd::load(x + i * simd::width)
               : left > 0          ? simd::load_partial(x + i * simd::width, left)
                                   : simd::zero();
    const simd::Floats magnitude = simd::max(value[i], -value[i]);
    const simd::Floats limit = simd::broadcast(std::numeric_limits<float>::max());
    finite = finite && _mm512_cmp_ps_mask(magnitude, limit, _CMP_LE_OQ) == 0xffff;
    largest = simd::max(magnitude, largest);
  }
  const float most = simd::reduce_max(largest);
  const simd::Floats inverse = simd::broadcast(finite && most > 1e-30F ? 127 / most : 0.0F);
  for (Index i = 0; i < 4; ++i) {
    const __m512i whole = _mm512_maskz_cvtps_epi32(0xffff, value[i] * inverse);
    const __m128i bytes = _mm512_maskz_cvtsepi32_epi8(0xffff, whole);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i * simd::width), bytes);
  }
  // What is not finite stays so: the scale carries it into every result.
  return finite ? most / 127 : std::numeric_limits<float>::quiet_NaN();
}

/// How codes of a format meet those of an input, `unit` columns at a time, in vectors of 64 bytes.
template <class F>
struct IntegerCodes;

template <Index GroupSize>
struct IntegerCodes<Int8<GroupSize>> {
  static constexpr int bias = 128;
  static constexpr Index unit = 64;
  /// Where the 16 columns number `chunk` of a unit of the input lie.
  static constexpr Index place(Index chunk) { return chunk * simd::width; }
  /// Of a row's codes from `bytes` on, the first `count`.
  static __m512i dot(const std::uint8_t* bytes, Index count, const std::int8_t* x, __m512i sum) {
    const __m512i codes = _mm512_maskz_loadu_epi8(first_bytes(count), bytes);
    return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(codes, _mm512_set1_epi8(-128)), _mm512_loadu_si512(x));
  }
};

template <Index GroupSize>
struct IntegerCodes<Int4<GroupSize>> {
  static constexpr int bias = 8;
  static constexpr Index unit = 128;
  // First the columns in the lower halves of the bytes, then those in the upper ones.
  static constexpr Index place(Index chunk) { return chunk % 2 * 64 + chunk / 2 * simd::width; }
  static __m512i dot(const std::uint8_t* bytes, Index count, const std::int8_t* x, __m512i sum) {
    const __m512i codes = _mm512_maskz_loadu_epi8(first_bytes(count), bytes);
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask);
    sum = _mm512_dpbusd_epi32(sum, _mm512_and_si512(codes, mask), _mm512_loadu_si512(x));
    return _mm512_dpbusd_epi32(sum, upper, _mm512_loadu_si512(x + 64));
  }
};

/// The scale of each lane of a unit's dot: `scales` are those of the unit, `count` of them inside the row.
template <class F>
inline simd::Floats unit_scales(const bf16* scales, Index count) {
  constexpr Index groups = IntegerCodes<F>::unit / F::group_size;
  if constexpr (groups <= 1) {
    return simd::broadcast(*scales);
  } else {
    std::uint64_t bits = 0;
    std::memcpy(&bits, scales, static_cast<std::size_t>(std::min(groups, count)) * sizeof(bf16));
    // Each lane picks the two bytes of its group's scale and puts zeros under them: a float.
    constexpr auto pick = [](Index lane) {
      const Index group = lane * groups / simd::width;
      return static_cast<int>(0x80800000U >> 16U | static_cast<unsigned>((2 * group + 1) << 24 | 2 * group << 16));
    };
    const __m512i picks =
        _mm512_setr_epi32(pick(0), pick(1), pick(2), pick(3), pick(4), pick(5), pick(6), pick(7), pick(8), pick(9),
                          pick(10), pick(11), pick(12), pick(13), pick(14), pick(15));
    const __m512i all = _mm512_maskz_set1_epi64(0xff, static_cast<long long>(bits));
    return reinterpret_cast<simd::Floats>(_mm512_maskz_shuffle_epi8(~__mmask64{0}, all, picks));
  }
}

}  // namespace detail

/// Rows of an input, rounded for row_products with weights of format F. Memory is the arena's.
template <QuantizedFormat F>
class Int8Input {
 public:
  Int8Input() = default;
  Int8Input(Arena& arena, MatrixView<const float> x) : units_(ceil_div(x.cols(), unit)) {
    codes_ = arena.allocate<std::int8_t>(x.rows() * units_ * unit);
    starts_ = arena.allocate<std::int32_t>(x.rows() * units_ * simd::width);
    scales_ = arena.allocate<float>(x.rows() * units_ * simd::width);
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index u = 0; u < units_; ++u) round(x.row(r) + u * unit, x.cols() - u * unit, r * units_ + u);
    }
  }

  Index units() const { return units_; }
  const std::int8_t* codes(Index row, Index u) const { return codes_ + (row * units_ + u) * unit; }
  __m512i start(Index row, Index u) const { return _mm512_loadu_si512(starts_ + (row * units_ + u) * simd::width); }
  simd::Floats scale(Index row, Index u) const { return simd::load(scales_ + (row * units_ + u) * simd::width); }

 private:
  using Codes = detail::IntegerCodes<F>;
  static constexpr Index unit = Codes::unit;

  void round(const float* x, Index count, Index at) {
    constexpr Index blocks = unit / detail::integer_block, chunks = detail::integer_block / simd::width;
    std::int8_t* const to = codes_ + at * unit;
    for (Index b = 0; b < blocks; ++b) {
      std::int8_t codes[detail::integer_block];
      const float scale = detail::round_block(x + b * detail::integer_block, count - b * detail::integer_block, codes);
      for (Index c = 0; c < chunks; ++c) {
        std::memcpy(to + Codes::place(b * chunks + c), codes + c * simd::width, simd::width);
      }
      std::fill_n(scales_ + at * simd::width + b * simd::width / blocks, simd::width / blocks, scale);
    }
    const __m512i bias = _mm512_set1_epi8(static_cast<char>(Codes::bias));
    __m512i excess = _mm512_setzero_si512();
    for (Index v = 0; v < unit; v += 64) excess = _mm512_dpbusd_epi32(excess, bias, _mm512_loadu_si512(to + v));
    _mm512_storeu_si512(starts_ + at * simd::width, _mm512_sub_epi32(_mm512_setzero_si512(), excess));
  }

  Index units_ = 0;
  std::int8_t* codes_ = nullptr;    // (rows, units, unit), in the order of the weights' bytes
  std::int32_t* starts_ = nullptr;  // (rows, units, 16): −bias · the sum of each lane's codes
  float* scales_ = nullptr;         // (rows, units, 16)
};

/// Weights with the rounded input that they will be multiplied by.
template <QuantizedFormat F>
struct IntegerRows : detail::RowsOfFormat<F>::type {
  const Int8Input<F>* input = nullptr;
};

template <QuantizedFormat F, Index Out, Index In>
IntegerRows<F> integer_rows(const QuantizedWeight<F, Out, In>& weight, const Int8Input<F>& input) {
  return {weight_rows(weight), &input};
}
/// Other weights are multiplied by the input as it is.
template <class Matrix, QuantizedFormat F>
auto integer_rows(const Matrix& weight, const Int8Input<F>&) {
  return weight_rows(weight);
}

namespace detail {

template <Index WRows, QuantizedFormat F>
inline void integer_row_tile(Index r, Index in, const IntegerRows<F>& weight, Index first, Index spacing,
                             const float* bias, MatrixView<float> y) {
  using Codes = IntegerCodes<F>;
  constexpr Index unit_bytes = Codes::unit * F::bits / 8, unit_groups = std::max<Index>(1, Codes::unit / F::group_size);
  const Int8Input<F>& input = *weight.input;
  simd::Floats sum[WRows] = {};
  decltype(weight.row(0)) row[WRows];
#pragma GCC unroll 8
  for (Index o = 0; o < WRows; ++o) row[o] = weight.row(first + o * spacing);
  const auto add_unit = [&](Index u, Index bytes, Index groups) {
    const __m512i start = input.start(r, u);
    const simd::Floats scale = input.scale(r, u);
    const std::int8_t* const x = input.codes(r, u);
#pragma GCC unroll 8
    for (Index o = 0; o < WRows; ++o) {
      const std::uint8_t* const codes = row[o].codes + u * unit_bytes;
      simd::prefetch(codes + RowProductTuning::bytes_ahead);
      const simd::Floats dot = as_floats(Codes::dot(codes, bytes, x, start));
      sum[o] = simd::fma(dot, unit_scales<F>(row[o].scales + u * Codes::unit / F::group_size, groups) * scale, sum[o]);
    }
  };
  const Index whole = in / Codes::unit;
  for (Index u = 0; u < whole; ++u) add_unit(u, unit_bytes, unit_groups);
  if (whole < input.units()) {
    add_unit(whole, F::row_bytes(in) - whole * unit_bytes, F::groups(in) - whole * Codes::unit / F::group_size);
  }
#pragma GCC unroll 8
  for (Index o = 0; o < WRows; ++o) {
    const Index to = first + o * spacing;
    y.row(r)[to] = simd::reduce_add(sum[o]) + (bias != nullptr ? bias[to] : 0.0F);
  }
}

}  // namespace detail

/// row_products (row_products.hpp) in integers. `x` is what the rows' input was made of.
template <QuantizedFormat F>
void row_products(const RowPanels& panels, const IntegerRows<F>& weight, Index first, Index last, const float* bias,
                  MatrixView<float> y, int) {
  constexpr Index streams = RowProductTuning::low.w_rows;
  const MatrixView<const float> x = panels.rows();
  const Index length = (last - first) / streams;
  for (Index o = first; o < first + length; ++o) {
    for (Index r = 0; r < x.rows(); ++r) {
      detail::integer_row_tile<streams>(r, x.cols(), weight, o, length, bias, y);
    }
  }
  for (Index o = first + length * streams; o < last; ++o) {
    for (Index r = 0; r < x.rows(); ++r) detail::integer_row_tile<1>(r, x.cols(), weight, o, 0, bias, y);
  }
}

#else

inline constexpr bool has_integer_products = false;
template <QuantizedFormat F>
class Int8Input;

#endif

}  // namespace xlstm::cpu
