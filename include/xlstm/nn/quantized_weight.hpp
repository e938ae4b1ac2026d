// SPDX-License-Identifier: Apache-2.0
// The handle of a quantised matrix (core/quantization.hpp), for inference: parameters that are read, never trained.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "xlstm/core/element.hpp"
#include "xlstm/core/quantization.hpp"

namespace xlstm {

/// An Out × In matrix as codes (Out, row_bytes) and scales (Out, groups), in one block or where a file has them.
template <QuantizedFormat F, Index Out, Index In>
class QuantizedWeight {
 public:
  using Format = F;
  using Element = std::uint8_t;  ///< of the codes
  static constexpr Index rows = Out;
  static constexpr Index cols = In;
  static constexpr Index count = Out * In;
  static constexpr Index row_bytes = F::row_bytes(In);
  static constexpr Index row_scales = F::groups(In);
  static constexpr Index code_bytes = Out * row_bytes;
  static constexpr Index scale_bytes = Out * row_scales * static_cast<Index>(sizeof(bf16));
  static constexpr Index bytes = round_up(code_bytes, 64) + scale_bytes;
  static constexpr bool is_matrix = true;

  constexpr std::uint8_t* codes() { return codes_; }
  constexpr const std::uint8_t* codes() const { return codes_; }
  constexpr bf16* scales() { return scales_; }
  constexpr const bf16* scales() const { return scales_; }

  /// Codes and, from the next multiple of 64 bytes on, scales.
  void bind(void* memory) {
    auto* const start = static_cast<std::byte*>(memory);
    bind(start, start + round_up(code_bytes, 64));
  }
  void bind(void* codes, void* scales) {
    codes_ = static_cast<std::uint8_t*>(codes);
    scales_ = static_cast<bf16*>(scales);
  }

 private:
  std::uint8_t* codes_ = nullptr;
  bf16* scales_ = nullptr;
};

/// Handles of this kind.
template <class Handle>
concept QuantizedHandle = requires {
  typename Handle::Format;
};

namespace detail {
template <class Matrix>
struct FormatOfOne {
  using type = typename Matrix::Format;
};
}  // namespace detail

/// The format of the first quantised one of some matrices' handles; void where there is none.
template <class... Matrices>
struct FormatOf {
  using type = void;
};
template <class Matrix, class... Rest>
struct FormatOf<Matrix, Rest...>
    : std::conditional_t<QuantizedHandle<Matrix>, detail::FormatOfOne<Matrix>, FormatOf<Rest...>> {};

}  // namespace xlstm
