// SPDX-License-Identifier: Apache-2.0
// Rows of quantised weights (core/quantization.hpp) as the products read them: codes become floats in registers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "xlstm/core/quantization.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"
#include "xlstm/nn/quantized_weight.hpp"

namespace xlstm::cpu {

/// The rows of Int8<GroupSize> weights.
template <Index GroupSize>
struct Int8Rows {
  static constexpr bool paired = false;
  static constexpr Index block_columns = std::min<Index>(GroupSize, 64);
  static constexpr Index parts = 2;  // a code of at most 8 bits times a scale of 8
  struct Block {
    const std::uint8_t* codes;
    simd::Floats scale;
    simd::Floats vector(Index i) const { return simd::load_int8(codes + i * simd::width) * scale; }
  };
  struct Row {
    const std::uint8_t* codes;
    const bf16* scales;
    Block block(Index column) const { return {codes + column, simd::broadcast(scales[column / GroupSize])}; }
    simd::Floats load(Index column) const { return block(column).vector(0); }
    simd::Floats load_partial(Index column, Index) const { return load(column); }  // rows are padded
    const void* address(Index column) const { return codes + column; }
  };

  const std::uint8_t* codes = nullptr;
  const bf16* scales = nullptr;
  Index row_code_bytes = 0, row_scales = 0;

  Row row(Index r) const { return {codes + r * row_code_bytes, scales + r * row_scales}; }
  Index row_bytes() const { return row_code_bytes + row_scales * static_cast<Index>(sizeof(bf16)); }
};

/// The rows of Int4<GroupSize> weights.
template <Index GroupSize>
struct Int4Rows {
  static constexpr bool paired = false;
  static constexpr Index block_columns = std::min<Index>(GroupSize, 64);
  static constexpr Index parts = 2;  // a code of at most 8 bits times a scale of 8
  static constexpr Index run = quantization_run;
  /// `column`: of the block's first, within its run.
  struct Block {
    const std::uint8_t* runs;
    simd::FourBitLevels levels;
    Index column;
    simd::Floats vector(Index i) const {
      const Index at = column + i * simd::width;
      const std::uint8_t* const bytes = runs + at / run * (run / 2) + at % (run / 2);
      return at % run < run / 2 ? levels.lower(bytes) : levels.upper(bytes);
    }
  };
  struct Row {
    const std::uint8_t* codes;
    const bf16* scales;
    Block block(Index column) const {
      return {codes + column / 2, simd::FourBitLevels(simd::broadcast(scales[column / GroupSize])), 0};
    }
    simd::Floats load(Index column) const {
      const Index first = column / run * run;
      return Block{codes + first / 2, simd::FourBitLevels(simd::broadcast(scales[column / GroupSize])), column - first}
          .vector(0);
    }
    simd::Floats load_partial(Index column, Index) const { return load(column); }  // rows are padded
    const void* address(Index column) const { return codes + column / 2; }
  };

  const std::uint8_t* codes = nullptr;
  const bf16* scales = nullptr;
  Index row_code_bytes = 0, row_scales = 0;

  Row row(Index r) const { return {codes + r * row_code_bytes, scales + r * row_scales}; }
  Index row_bytes() const { return row_code_bytes + row_scales * static_cast<Index>(sizeof(bf16)); }
};

static_assert(WeightRows<Int8Rows<64>> && WeightRows<Int4Rows<32>>);

namespace detail {
template <class F>
struct RowsOfFormat;
template <Index GroupSize>
struct RowsOfFormat<Int8<GroupSize>> {
  using type = Int8Rows<GroupSize>;
};
template <Index GroupSize>
struct RowsOfFormat<Int4<GroupSize>> {
  using type = Int4Rows<GroupSize>;
};
}  // namespace detail

/// The rows of a format's codes and scales.
template <QuantizedFormat F>
auto weight_rows(const std::uint8_t* codes, const bf16* scales, Index in) {
  return typename detail::RowsOfFormat<F>::type{codes, scales, F::row_bytes(in), F::groups(in)};
}
/// The rows of a parameter.
template <QuantizedFormat F, Index Out, Index In>
auto weight_rows(const QuantizedWeight<F, Out, In>& weight) {
  return weight_rows<F>(weight.codes(), weight.scales(), In);
}

}  // namespace xlstm::cpu
