// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights with activations that are rounded to 8 bits, in integers (AVX512-VNNI): for few rows,
// where turning codes into floats costs more than reading them. 64 columns of an input row share a scale,
//     y(r, o) = Σ_blocks scale_x · Σ_groups scale_w · Σ_i code_w(o, i) · code_x(r, i),
// the inner sum exact. What that costs in quality is in docs/quantization.md. The instruction multiplies unsigned by
// signed bytes: codes of weights are taken as code + 128 (int8) or code + 8 (int4), and sums begin with what that adds
// too much.
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
/// Activations are rounded to 8 bits where few rows meet quantised weights, if the machine compiled for has
/// AVX512-VNNI; otherwise they stay float.
struct Int8Activations {};

#if defined(XLSTM_SIMD_AVX512) && defined(__AVX512VNNI__)

inline constexpr bool has_integer_products = true;

namespace detail {

inline constexpr Index integer_block = 64;

/// The codes of 64 columns as unsigned bytes, and the scale of each lane of four of them.
template <class F>
struct IntegerCodes;

/// Two neighbouring bf16 scales: the first where `shift` is 16, the second where it is 0.
inline simd::Floats scale_pair(const bf16* scales, __m512i shift) {
  std::int32_t both;
  std::memcpy(&both, scales, sizeof both);
  const __m512i lanes = _mm512_maskz_sllv_epi32(0xffff, _mm512_set1_epi32(both), shift);
  return reinterpret_cast<simd::Floats>(_mm512_and_si512(lanes, _mm512_set1_epi32(-65536)));
}

template <Index GroupSize>
struct IntegerCodes<Int8<GroupSize>> {
  static constexpr int bias = 128;
  static constexpr int chunks[4] = {0, 1, 2, 3};  // where 16 columns each lie among the 64 bytes
  template <class Row>
  static __m512i load(const Row& row, Index column) {
    return _mm512_xor_si512(_mm512_loadu_si512(row.codes + column), _mm512_set1_epi8(-128));
  }
  static __m512i second_half() { return _mm512_setr_epi32(16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0); }
};

template <Index GroupSize>
struct IntegerCodes<Int4<GroupSize>> {
  static constexpr int bias = 8;
  static constexpr int chunks[4] = {0, 2, 1, 3};  // lower halves of both runs, then the upper ones
  template <class Row>
  static __m512i load(const Row& row, Index column) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.codes + column / 2));
    const __m512i upper = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4);
    const __m512i both = _mm512_maskz_broadcast_i64x4(0xff, bytes);
    return _mm512_and_si512(_mm512_maskz_srlv_epi64(0xff, both, upper), _mm512_set1_epi8(15));
  }
  static __m512i second_half() { return _mm512_setr_epi32(16, 16, 16, 16, 0, 0, 0, 0, 16, 16, 16, 16, 0, 0, 0, 0); }
};

template <class F, class Row>
inline simd::Floats integer_scales(const Row& row, Index column) {
  if constexpr (F::group_size == 32) {
    return scale_pair(row.scales + column / 32, IntegerCodes<F>::second_half());
  } else {
    return simd::broadcast(row.scales[column / F::group_size]);
  }
}

}  // namespace detail

/// The rows of an input, rounded for products with weights of format F. Memory is the arena's.
template <QuantizedFormat F>
class Int8Input {
 public:
  static constexpr Index block = detail::integer_block;

  Int8Input() = default;
  Int8Input(Arena& arena, MatrixView<const float> x) : blocks_(x.cols() / block) {
    codes_ = arena.allocate<std::int8_t>(x.rows() * blocks_ * block);
    starts_ = arena.allocate<std::int32_t>(x.rows() * blocks_ * simd::width);
    scales_ = arena.allocate<float>(x.rows() * blocks_);
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index b = 0; b < blocks_; ++b) round(x.row(r) + b * block, r * blocks_ + b);
    }
  }

  Index blocks() const { return blocks_; }
  __m512i codes(Index row, Index b) const { return _mm512_loadu_si512(codes_ + (row * blocks_ + b) * block); }
  __m512i start(Index row, Index b) const { return _mm512_loadu_si512(starts_ + (row * blocks_ + b) * simd::width); }
  float scale(Index row, Index b) const { return scales_[row * blocks_ + b]; }

 private:
  void round(const float* x, Index at) {
    simd::Floats largest = simd::zero();
    bool finite = true;
    for (Index i = 0; i < block; i += simd::width) {
      const simd::Floats magnitude = simd::max(simd::load(x + i), -simd::load(x + i));
      const __mmask16 good =
          _mm512_cmp_ps_mask(magnitude, simd::broadcast(std::numeric_limits<float>::max()), _CMP_LE_OQ);
      finite = finite && good == 0xffff;
      largest = simd::max(magnitude, largest);
    }
    const float most = simd::reduce_max(largest);
    // What is not finite stays so: the scale carries it into every result.
    scales_[at] = finite ? most / 127 : std::numeric_limits<float>::quiet_NaN();
    const simd::Floats inverse = simd::broadcast(finite && most > 1e-30F ? 127 / most : 0.0F);
    std::int8_t* const to = codes_ + at * block;
    for (int chunk = 0; chunk < 4; ++chunk) {
      const simd::Floats scaled = simd::load(x + detail::IntegerCodes<F>::chunks[chunk] * simd::width) * inverse;
      const __m512i whole = _mm512_maskz_cvtps_epi32(0xffff, scaled);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + chunk * simd::width),
                       _mm512_maskz_cvtsepi32_epi8(0xffff, whole));
    }
    const __m512i bias = _mm512_set1_epi8(static_cast<char>(detail::IntegerCodes<F>::bias));
    const __m512i excess = _mm512_dpbusd_epi32(_mm512_setzero_si512(), bias, _mm512_loadu_si512(to));
    _mm512_storeu_si512(starts_ + at * simd::width, _mm512_sub_epi32(_mm512_setzero_si512(), excess));
  }

  Index blocks_ = 0;
  std::int8_t* codes_ = nullptr;    // (rows, blocks, 64), in the order of the weights' bytes
  std::int32_t* starts_ = nullptr;  // (rows, blocks, 16): −bias · the sum of each lane's codes
  float* scales_ = nullptr;         // (rows, blocks)
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
inline void integer_product_tile(MatrixView<const float> x, Index r, const IntegerRows<F>& weight, Index first,
                                 Index spacing, const float* bias, MatrixView<float> y) {
  const Int8Input<F>& input = *weight.input;
  simd::Floats sum[WRows] = {};
  decltype(weight.row(0)) row[WRows];
#pragma GCC unroll 8
  for (Index o = 0; o < WRows; ++o) row[o] = weight.row(first + o * spacing);
  for (Index b = 0; b < input.blocks(); ++b) {
    const Index c = b * integer_block;
    const __m512i codes = input.codes(r, b), start = input.start(r, b);
    const simd::Floats scale = simd::broadcast(input.scale(r, b));
#pragma GCC unroll 8
    for (Index o = 0; o < WRows; ++o) {
      simd::prefetch(static_cast<const char*>(row[o].address(c)) + RowProductTuning::bytes_ahead);
      const __m512i dot = _mm512_dpbusd_epi32(start, IntegerCodes<F>::load(row[o], c), codes);
      sum[o] = simd::fma(_mm512_maskz_cvtepi32_ps(0xffff, dot), integer_scales<F>(row[o], c) * scale, sum[o]);
    }
  }
  for (Index c = input.blocks() * integer_block; c < x.cols(); c += simd::width) {  // less than a block: in floats
    const simd::Floats v = simd::load_partial(x.row(r) + c, std::min<Index>(simd::width, x.cols() - c));
#pragma GCC unroll 8
    for (Index o = 0; o < WRows; ++o) sum[o] = simd::fma(row[o].load(c), v, sum[o]);
  }
  for (Index o = 0; o < WRows; ++o) {
    const Index to = first + o * spacing;
    y.row(r)[to] = simd::reduce_add(sum[o]) + (bias != nullptr ? bias[to] : 0.0F);
  }
}

}  // namespace detail

/// row_products (row_products.hpp) in integers. `x` is what the rows' input was made of.
template <QuantizedFormat F>
void row_products(const RowPanels& panels, const IntegerRows<F>& weight, Index first, Index last, const float* bias,
                  MatrixView<float> y) {
  const MatrixView<const float> x = panels.rows();
  constexpr Index streams = RowProductTuning::low.w_rows;
  const Index length = (last - first) / streams;
  for (Index o = first; o < first + length; ++o) {
    for (Index r = 0; r < x.rows(); ++r) detail::integer_product_tile<streams>(x, r, weight, o, length, bias, y);
  }
  for (Index o = first + length * streams; o < last; ++o) {
    for (Index r = 0; r < x.rows(); ++r) detail::integer_product_tile<1>(x, r, weight, o, 0, bias, y);
  }
}

#else

inline constexpr bool has_integer_products = false;
template <QuantizedFormat F>
class Int8Input;

#endif

}  // namespace xlstm::cpu
