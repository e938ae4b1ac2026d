// SPDX-License-Identifier: Apache-2.0
// The mLSTM's products of small matrices (chunk_products.hpp) in the registers of AMX, with the precision of fp32
// (amx_tiles.hpp). A tile's 32 × 32 sums stay in the registers from one product to the next, and are in memory only
// while vectors work on them.
#pragma once

#include <algorithm>
#include <iterator>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/amx_tiles.hpp"
#include "xlstm/cpu/panels.hpp"

namespace xlstm::cpu {

#if defined(XLSTM_SIMD_AMX)

static_assert(panel_width == AmxTiles::tile_n && panel_width == AmxTiles::tile_m && panel_width == AmxTiles::block);

/// The interface of Tile, of up to 32 rows. One at a time, inside an amx::Session.
class AmxTile {
 public:
  /// A packed left operand: panels of 32 rows, of each `blocks` blocks of 32 columns.
  struct Left {
    const AmxTiles::Element* data;
    Index blocks;
  };

  explicit AmxTile(Index rows) : rows_(rows) {}
  Index rows() const { return rows_; }

  void clear() {
    amx::begin_sums(nullptr, 0);
    in_memory_ = false;
  }
  void load(const float* from, Index stride, float factor) {
    if (factor == 1 && rows_ == panel_width) {
      begin_sums(from, stride);
      return;
    }
    const simd::Floats f = simd::broadcast(factor);
    in_memory_ = true;
    for_each_vector([&](Index r, Index c, float* sum) { simd::store(sum, f * simd::load(from + r * stride + c)); });
    std::fill(sum_ + rows_ * panel_width, std::end(sum_), 0.0F);
  }
  void store(float* to, Index stride) { store(to, stride, panel_width); }
  /// The first `width` columns only.
  void store(float* to, Index stride, Index width) {
    if (!in_memory_ && rows_ == panel_width && width >= panel_width) return store_sums(to, stride);
    move_to_memory();
    for (Index r = 0; r < rows_; ++r)
      std::copy_n(sum_ + r * panel_width, std::min(width, panel_width), to + r * stride);
  }
  /// The transpose: column c of the first `width` goes to row c of `to`.
  void store_transposed(float* to, Index stride, Index width) {
    constexpr Index n = simd::width;
    move_to_memory();
    for (Index r = 0; r < rows_; r += n) {
      for (Index c = 0; c < std::min(width, panel_width); c += n) {
        simd::Floats v[n];
        for (Index i = 0; i < n; ++i) v[i] = simd::load(sum_ + (r + i) * panel_width + c);
        simd::transpose(v);
        for (Index i = 0; i < std::min(n, width - c); ++i) {
          float* const row = to + (c + i) * stride + r;
          if (rows_ - r >= n) {
            simd::store(row, v[i]);
          } else {
            simd::store_partial(row, v[i], rows_ - r);
          }
        }
      }
    }
  }

  /// Row r times factor[r].
  void scale(const float* factor) {
    move_to_memory();
    for_each_vector(
        [&](Index r, Index, float* sum) { simd::store(sum, simd::broadcast(factor[r]) * simd::load(sum)); });
  }
  /// Column c times factor[c], of panel_width factors.
  void scale_columns(const float* factor) {
    move_to_memory();
    for_each_vector([&](Index, Index c, float* sum) { simd::store(sum, simd::load(factor + c) * simd::load(sum)); });
  }
  /// total[r] += Σ_c sum(r, c)·with[r·panel_width + c].
  void add_row_dots(const float* with, double* total) {
    move_to_memory();
    for (Index r = 0; r < rows_; ++r)
      total[r] += static_cast<double>(simd::dot(sum_ + r * panel_width, with + r * panel_width, panel_width));
  }

  /// sum(r, ·) += Σ_{from ≤ k < to} a(i + r, k) · b(k, ·); i and `from` are multiples of 32.
  void add(const Left& a, Index i, const AmxTiles::Element* b, Index from, Index to) {
    if (in_memory_) begin_sums(sum_, panel_width);
    const Index first = from / AmxTiles::block;
    AmxTiles::add_product<3>(a.data + (i / panel_width * a.blocks + first) * AmxTiles::a_step,
                             b + first * AmxTiles::b_size(AmxTiles::block, 3), ceil_div(to, AmxTiles::block) - first,
                             lower());
  }

 private:
  bool lower() const { return rows_ > 16; }
  void begin_sums(const float* from, Index stride) {
    amx::memory_fence();
    amx::begin_sums(from, stride);
    in_memory_ = false;
  }
  void store_sums(float* to, Index stride) const {
    amx::store_sums(to, stride, lower());
    amx::memory_fence();
  }
  void move_to_memory() {
    if (!in_memory_) store_sums(sum_, panel_width);
    in_memory_ = true;
  }
  template <class F>
  void for_each_vector(F&& f) {
    for (Index r = 0; r < rows_; ++r) {
      for (Index c = 0; c < panel_width; c += simd::width) f(r, c, sum_ + r * panel_width + c);
    }
  }

  alignas(64) float sum_[panel_width * panel_width];
  Index rows_;
  bool in_memory_ = true;
};

/// The interface of VectorProducts.
struct AmxProducts {
  using Session = amx::Session;
  using Element = AmxTiles::Element;
  using Left = AmxTile::Left;
  static constexpr bool packs = true;
  static constexpr Index most_rows = panel_width;

  static constexpr Index left_size(Index rows, Index depth) {
    return ceil_div(rows, panel_width) * ceil_div(depth, AmxTiles::block) * AmxTiles::a_step;
  }
  static constexpr Index right_size(Index depth) { return AmxTiles::b_size(depth, 3); }
  static constexpr Index right_panel_size(Index depth) { return right_size(depth); }

  static void pack_left(const LeftOperand& from, Index rows, Index depth, Index p, Part part, Element* memory) {
    const Index count = std::min(panel_width, rows - p * panel_width);
    const Index first = part == Part::upper ? p * panel_width : 0;
    const Index end = part == Part::lower ? std::min(depth, (p + 1) * panel_width) : depth;
    Element* to = memory + (p * ceil_div(depth, AmxTiles::block) + first / AmxTiles::block) * AmxTiles::a_step;
    for (Index k = first; k < end; k += AmxTiles::block, to += AmxTiles::a_step) {
      const float* const at = from.at(p * panel_width, k);
      const Index left = std::min(AmxTiles::block, depth - k);
      if (from.step == 1) {
        AmxTiles::pack_a(RowsOfA{at, from.row}, 0, count, 0, left, panel_width, to);
      } else {
        AmxTiles::pack_a(ColumnsOfA{at, from.step}, 0, count, 0, left, panel_width, to);
      }
    }
  }
  static Left left(const LeftOperand&, Index depth, const Element* memory) {
    return {memory, ceil_div(depth, AmxTiles::block)};
  }

  static const Element* right_of_rows(const float* from, Index stride, Index depth, Index width, Element* memory) {
    AmxTiles::pack_b(PlainB<PlainRows<float>>{{from, stride}}, 0, depth, 0, std::min(width, panel_width), memory);
    return memory;
  }
  static const Element* right_of_columns(const float* from, Index stride, Index depth, Index width, Element* memory) {
    AmxTiles::pack_b(TransposedB<PlainRows<float>>{{from, stride}}, 0, depth, 0, std::min(width, panel_width), memory);
    return memory;
  }
  static const Element* right_of_panel(const float* panel, Index first, Index depth, Element* memory) {
    first -= first % AmxTiles::block;
    right_of_rows(panel + first * panel_width, panel_width, depth - first, panel_width,
                  memory + first / AmxTiles::block * AmxTiles::b_size(AmxTiles::block, 3));
    return memory;
  }

  static const Element* packed_panel(const float*, const Element* memory) { return memory; }

  // Registers load only what is there: the values are scaled in memory, as one stretch.
  static Scaled scaled(const float* from, float factor, float* to, Index count) {
    const simd::Floats f = simd::broadcast(factor);
    for (Index i = 0; i < count; i += simd::width) simd::store(to + i, f * simd::load(from + i));
    return {to, 1.0F};
  }

  template <class F>
  static void for_each_tile(Index rows, F&& f) {
    for (Index r = 0; r < rows; r += panel_width) {
      AmxTile tile(std::min(panel_width, rows - r));
      f(tile, r);
    }
  }
};

#endif

}  // namespace xlstm::cpu
