// SPDX-License-Identifier: Apache-2.0
// Quantised weight formats: an (out, in) matrix as integer codes in groups along `in` that share a scale,
//     weight(o, i) = scale(o, i / group_size) · code(o, i)
// Codes are 8 bits (−127…127) or 4 bits (−8…7), scales bf16; a row's last group may be shorter. The product of code and
// scale is exact in float. Memory and files have the same layout (docs/quantization.md): a row's codes are padded with
// zeros to whole runs of 32 columns; int8 has one byte a column; int4 has 16 bytes a run, byte j holding column j in
// its lower and column j + 16 in its upper half, each as code + 8. Scales are (out, ⌈in / group_size⌉), row-major.
#pragma once

#include <cstdint>
#include <string_view>

#include "xlstm/core/index.hpp"

namespace xlstm {

/// Columns after which the layout of codes repeats.
inline constexpr Index quantization_run = 32;

namespace detail {
template <Index GroupSize>
struct GroupsOf {
  static_assert(GroupSize == 32 || GroupSize == 64 || GroupSize == 128 || GroupSize == 256,
                "xlstm: quantised weights come in groups of 32, 64, 128 or 256");
  static constexpr Index group_size = GroupSize;
  static constexpr Index groups(Index in) { return ceil_div(in, GroupSize); }
};
}  // namespace detail

/// 8 bits a weight and a scale for each group.
template <Index GroupSize = 128>
struct Int8 : detail::GroupsOf<GroupSize> {
  static constexpr int bits = 8;
  using Head = Int8;  ///< the format of a language model's head
  static constexpr std::string_view name = "int8";
  static constexpr Index row_bytes(Index in) { return round_up(in, quantization_run); }
};

/// 4 bits a weight and a scale for each group.
template <Index GroupSize = 32>
struct Int4 : detail::GroupsOf<GroupSize> {
  static constexpr int bits = 4;
  using Head = Int8<>;  ///< of a language model's head: rounding it to 4 bits costs more than its size saves
  static constexpr std::string_view name = "int4";
  static constexpr Index row_bytes(Index in) { return round_up(in, quantization_run) / 2; }
};

/// The formats that --weights int8 and --weights int4 mean.
using int8 = Int8<>;
using int4 = Int4<>;

/// A format of this header: `cpu::Backend<int8>`.
template <class F>
concept QuantizedFormat = requires(Index in) {
  F::name;
  F::group_size;
  F::groups(in);
  F::row_bytes(in);
};

/// A format that only run time knows, as a checkpoint's configuration names it.
struct Quantization {
  int bits = 8;
  Index group_size = 64;

  constexpr std::string_view name() const { return bits == 8 ? "int8" : "int4"; }
  /// The format of a language model's head.
  constexpr Quantization head() const { return bits == 4 ? Quantization{Int8<>::bits, Int8<>::group_size} : *this; }
  constexpr Index groups(Index in) const { return ceil_div(in, group_size); }
  constexpr Index row_bytes(Index in) const { return round_up(in, quantization_run) * bits / 8; }
  friend constexpr bool operator==(const Quantization&, const Quantization&) = default;
};

template <QuantizedFormat F>
inline constexpr Quantization quantization_of = {F::bits, F::group_size};

static_assert(quantization_of<int8>.row_bytes(70) == int8::row_bytes(70) &&
              quantization_of<int4>.row_bytes(70) == int4::row_bytes(70) &&
              quantization_of<int8>.head() == quantization_of<int8::Head> &&
              quantization_of<int4>.head() == quantization_of<int4::Head>);

}  // namespace xlstm
