// SPDX-License-Identifier: Apache-2.0
// The mLSTM's products of small matrices (chunk_products.hpp) in the registers of AMX (amx_tiles.hpp). The registers
// hold 32 × 32 sums at a time. What vectors do with sums they do of 128 rows at once, in memory: each change between
// the two kinds of registers waits until the other has finished.
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/amx_tiles.hpp"
#include "xlstm/cpu/panels.hpp"

namespace xlstm::cpu {

#if defined(XLSTM_SIMD_AMX)

/// The interface of Tile, of up to 128 rows. One at a time, inside an amx::Session.
template <class Precision>
class AmxTile {
  using Tiles = AmxTiles<Precision>;
  static_assert(panel_width == Tiles::tile_n && panel_width == Tiles::tile_m && panel_width == Tiles::block);

 public:
  using Element = typename Tiles::Element;
  static constexpr Index most_rows = 128;

  /// A packed left operand: panels of 32 rows, of each `blocks` blocks of 32 columns.
  struct Left {
    const Element* data;
    Index blocks;
  };

  /// `memory`: `rows` rows of a panel where the sums may lie, or null.
  AmxTile(Index rows, float* memory)
      : rows_(rows), sum_(memory != nullptr && rows % panel_width == 0 ? memory : own_) {}
  AmxTile(const AmxTile&) = delete;
  AmxTile& operator=(const AmxTile&) = delete;
  Index rows() const { return rows_; }

  void clear() { zero_ = true; }
  void load(const float* from, float factor) {
    zero_ = false;
    const simd::Floats f = simd::broadcast(factor);
    for_each_vector([&](float* sum, Index at) { simd::store(sum, f * simd::load(from + at)); });
    if (sum_ == own_) std::fill(own_ + rows_ * panel_width, own_ + round_up(rows_, panel_width) * panel_width, 0.0F);
  }
  void store(float* to, Index stride) const { store(to, stride, panel_width); }
  /// The first `width` columns only.
  void store(float* to, Index stride, Index width) const {
    if (to == sum_) return;
    for (Index r = 0; r < rows_; ++r) {
      const float* const from = sum_ + r * panel_width;
      if (width >= panel_width) {
        for (Index c = 0; c < panel_width; c += simd::width) simd::store(to + r * stride + c, simd::load(from + c));
      } else {
        std::copy_n(from, width, to + r * stride);
      }
    }
  }

  /// Row r times factor[r].
  void scale(const float* factor) {
    for_each_vector(
        [&](float* sum, Index at) { simd::store(sum, simd::broadcast(factor[at / panel_width]) * simd::load(sum)); });
  }
  /// total[r] += Σ_c sum(r, c)·with[r·panel_width + c].
  void add_row_dots(const float* with, double* total) const {
    for (Index r = 0; r < rows_; ++r)
      total[r] += static_cast<double>(simd::dot(sum_ + r * panel_width, with + r * panel_width, panel_width));
  }

  /// sum(r, ·) += Σ_{k < depth} a(i + r, k) · b(k, ·); i is a multiple of 32.
  void add(const Left& a, Index i, const Element* b, Index depth) {
    const Index end = ceil_div(depth, Tiles::block);
    add_blocks(a, i, b, [&](Index) { return Blocks{0, end}; });
  }
  void add_lower(const Left& a, Index i, const Element* b, Index) {
    add_blocks(a, i, b, [](Index panel) { return Blocks{0, panel + 1}; });
  }
  void add_upper(const Left& a, Index i, const Element* b, Index depth) {
    const Index end = ceil_div(depth, Tiles::block);
    add_blocks(a, i, b, [&](Index panel) { return Blocks{panel, end}; });
  }

 private:
  struct Blocks {
    Index first, end;
  };
  template <class Range>
  void add_blocks(const Left& a, Index i, const Element* b, Range&& range) {
    for (Index r = 0; r < rows_; r += panel_width) {
      const Index panel = (i + r) / panel_width;
      const Blocks blocks = range(panel);
      float* const sum = sum_ + r * panel_width;
      Tiles::template multiply_whole<Tiles::a_parts>(a.data + (panel * a.blocks + blocks.first) * Tiles::a_step,
                                                     b + Tiles::b_size(blocks.first * Tiles::block, Tiles::a_parts),
                                                     blocks.end - blocks.first, rows_ - r, sum, panel_width,
                                                     zero_ ? nullptr : sum, panel_width);
    }
    zero_ = false;
  }
  template <class F>
  void for_each_vector(F&& f) {
    for (Index at = 0; at < rows_ * panel_width; at += simd::width) f(sum_ + at, at);
  }

  Index rows_;
  float* sum_;  ///< to whole panels of 32 rows
  bool zero_ = true;
  alignas(64) float own_[most_rows * panel_width];
};

/// The interface of VectorProducts.
template <class Precision>
struct AmxProducts {
  using Tiles = AmxTiles<Precision>;
  using Tile = AmxTile<Precision>;
  using Session = amx::Session;
  using Element = typename Tiles::Element;
  using Left = typename Tile::Left;
  static constexpr bool packs = true;
  static constexpr Index triangle_rows = panel_width;

  static constexpr Index left_size(Index rows, Index depth) {
    return ceil_div(rows, panel_width) * ceil_div(depth, Tiles::block) * Tiles::a_step;
  }
  static constexpr Index right_size(Index depth) { return Tiles::b_size(depth, Tiles::a_parts); }
  static constexpr Index right_panel_size(Index depth) { return right_size(depth); }

  static void pack_left(const LeftOperand& from, Index rows, Index depth, Index p, Part part, Element* memory) {
    const Index count = std::min(panel_width, rows - p * panel_width);
    const Index first = part == Part::upper ? p * panel_width : 0;
    const Index end = part == Part::lower ? std::min(depth, (p + 1) * panel_width) : depth;
    Element* to = memory + (p * ceil_div(depth, Tiles::block) + first / Tiles::block) * Tiles::a_step;
    if (from.step == 1 && from.step_panel == panel_width) {  // whole rows, as they lie
      const RowsOfA lying{from.at(p * panel_width, first), from.row};
      return Tiles::pack_a(lying, 0, count, 0, end - first, panel_width, to);
    }
    for (Index k = first; k < end; k += Tiles::block, to += Tiles::a_step) {
      const float* const at = from.at(p * panel_width, k);
      const Index left = std::min(Tiles::block, depth - k);
      if (from.step == 1) {
        Tiles::pack_a(RowsOfA{at, from.row}, 0, count, 0, left, panel_width, to);
      } else {
        Tiles::pack_a(ColumnsOfA{at, from.step}, 0, count, 0, left, panel_width, to);
      }
    }
  }
  static Left left(const LeftOperand&, Index depth, const Element* memory) {
    return {memory, ceil_div(depth, Tiles::block)};
  }

  static const Element* right_of_rows(const float* from, Index stride, Index depth, Index width, Element* memory) {
    Tiles::pack_b(PlainB<PlainRows<float>>{{from, stride}}, 0, depth, 0, std::min(width, panel_width), memory);
    return memory;
  }
  static const Element* right_of_columns(const float* from, Index stride, Index depth, Index width, Element* memory) {
    Tiles::pack_b(TransposedB<PlainRows<float>>{{from, stride}}, 0, depth, 0, std::min(width, panel_width), memory);
    return memory;
  }
  static const Element* right_of_panel(const float* panel, Index first, Index depth, Element* memory) {
    first -= first % Tiles::block;
    right_of_rows(panel + first * panel_width, panel_width, depth - first, panel_width,
                  memory + Tiles::b_size(first, Tiles::a_parts));
    return memory;
  }
  static const Element* right_of_rows(const Panels& from, Index first, Element* memory) {
    for (Index p = 0; p < from.count(); ++p) {
      right_of_columns(from.panel(p) + first * panel_width, panel_width,
                       std::min(panel_width, from.cols - p * panel_width), from.rows - first,
                       memory + Tiles::b_size(p * panel_width, Tiles::a_parts));
    }
    return memory;
  }

  template <class F>
  static void for_each_tile(Index first, Index end, float* memory, F&& f) {
    for (Index r = first; r < end; r += Tile::most_rows) {
      Tile tile(std::min(Tile::most_rows, end - r), memory != nullptr ? memory + r * panel_width : nullptr);
      f(tile, r);
    }
  }
};

#endif

}  // namespace xlstm::cpu
