// SPDX-License-Identifier: Apache-2.0
// The products of the mLSTM's chunks as a policy: how operands are held, and the tile that multiplies them. The steps
// of mlstm_chunkwise.hpp and mlstm_backward.hpp are written once, for either policy:
//     VectorProducts  Tile of panels.hpp; left operands are read as they lie
//     AmxProducts     AmxTile of amx_chunk_products.hpp; both operands are packed first
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/amx_chunk_products.hpp"
#include "xlstm/cpu/mlstm_tuning.hpp"
#include "xlstm/cpu/panels.hpp"
#include "xlstm/cpu/precision.hpp"

namespace xlstm::cpu {

/// Products in vector registers. A right operand is a panel: `depth` rows of panel_width floats.
struct VectorProducts {
  struct Session {};  ///< lives while tiles do
  using Element = float;
  using Left = LeftOperand;
  static constexpr bool packs = false;               ///< operands that lie in panels, and left ones
  static constexpr Index triangle_rows = tile_rows;  ///< a triangle's rows reach to the end of so many

  /// Elements of a packed left operand of rows × depth, and of a right one.
  static constexpr Index left_size(Index, Index) { return 0; }
  static constexpr Index right_size(Index depth) { return depth * panel_width; }
  /// The same where the right operand lies in panels already.
  static constexpr Index right_panel_size(Index) { return 0; }

  /// Packs the rows [32 p, 32 p + 32) of a left operand of rows × depth, of which `part` is used.
  static void pack_left(const LeftOperand&, Index, Index, Index, Part, Element*) {}
  /// The left operand of depth `depth` that pack_left has packed.
  static Left left(const LeftOperand& from, Index, const Element*) { return from; }

  /// Row-major memory of depth × width, packed.
  static const Element* right_of_rows(const float* from, Index stride, Index depth, Index width, Element* memory) {
    pack_panel(memory, depth, width, from, stride, [](Index) { return 1.0F; });
    return memory;
  }
  /// The transpose of row-major memory of width × depth, packed.
  static const Element* right_of_columns(const float* from, Index stride, Index depth, Index width, Element* memory) {
    pack_transposed({memory, depth, std::min(width, panel_width)}, from, stride);
    return memory;
  }
  /// A panel, of which the rows [first, depth) are used.
  static const Element* right_of_panel(const float* panel, Index, Index, Element*) { return panel; }
  /// The transpose of the rows [first, first + 32) of a matrix in panels, packed.
  static const Element* right_of_rows(const Panels& from, Index first, Element* memory) {
    pack_transposed_rows(memory, from, first);
    return memory;
  }

  /// Calls f(tile, row) for tiles that cover the rows [first, end). `memory`: a panel of `end` rows where sums may lie,
  /// if that is where they are wanted; or null.
  template <class F>
  XLSTM_INLINE static void for_each_tile(Index first, Index end, float*, F&& f) {
    cpu::for_each_tile(first, end, static_cast<F&&>(f));
  }
};

/// Calls f with the policy for a cell's chunks.
template <class Cell, class Precision, class F>
void with_products(F&& f) {
#if defined(XLSTM_SIMD_AMX)
  if constexpr (MLSTMTuning::amx(Cell::qk_dim, Cell::v_dim)) {
    if (amx::permitted()) return f(AmxProducts<Precision>{});
  }
#endif
  f(VectorProducts{});
}

}  // namespace xlstm::cpu
