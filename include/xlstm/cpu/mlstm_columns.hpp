// SPDX-License-Identifier: Apache-2.0
// What a chunk does to the columns of the state and to those of an output is the same in both directions of the
// chunkwise mLSTM: forward h and C follow from q̂, k, v, backward δv and δC from k, q̂, δN.
#pragma once

#include <algorithm>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/chunk_products.hpp"
#include "xlstm/cpu/panels.hpp"

namespace xlstm::cpu {

/// out_i = weight_i rows_i·state + Σ_j pairs_ij values_j,      state ← decay·state + updates·values.
template <class Products, Part part, Index Q>
struct ColumnStep {
  using Element = typename Products::Element;
  using Left = typename Products::Left;

  Left rows;                      ///< (L, Q)
  const float* weight = nullptr;  ///< (L)
  Left pairs;                     ///< (L, L), of which `part` is used
  Left updates;                   ///< (Q, L)
  float decay = 0;
  Index length = 0;  ///< L

  /// The first `width` of a panel's columns of `out`. `values`: a packed right operand of L rows. `state`: Q rows of
  /// the state's panel, for whose packed form `memory` is; null: zeros.
  XLSTM_INLINE void output(const float* state, const Element* values, Element* memory, float* out, Index stride,
                           Index width) const {
    const Element* const right = state != nullptr ? Products::right_of_panel(state, 0, Q, memory) : nullptr;
    Products::for_each_tile(0, length, nullptr, [&](auto& tile, Index i) XLSTM_INLINE_LAMBDA {
      tile.clear();
      if (state != nullptr) {
        tile.add(rows, i, right, Q);
        tile.scale(weight + i);
      }
      if constexpr (part == Part::lower)
        tile.add_lower(pairs, i, values, length);
      else
        tile.add_upper(pairs, i, values, length);
      tile.store(out + i * stride, stride, width);
    });
  }

  /// A panel of the state; `from`, which may be `to`: null for zeros.
  XLSTM_INLINE void update(const float* from, const Element* values, float* to) const {
    Products::for_each_tile(0, Q, to, [&](auto& tile, Index i) XLSTM_INLINE_LAMBDA {
      if (from != nullptr)
        tile.load(from + i * panel_width, decay);
      else
        tile.clear();
      tile.add(updates, i, values, length);
      tile.store(to + i * panel_width, panel_width);
    });
  }
};

}  // namespace xlstm::cpu
