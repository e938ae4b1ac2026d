// SPDX-License-Identifier: Apache-2.0
// The memory of the mLSTM's backward pass on the CPU (mlstm_backward.hpp, which has the names): what one thread, or the
// threads that share a head, hold of a chunk, and the states of a group of chunks.
#pragma once

#include <algorithm>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/cpu/mlstm_saved.hpp"
#include "xlstm/cpu/mlstm_scales.hpp"
#include "xlstm/cpu/panels.hpp"

namespace xlstm::cpu::backward {

/// The state before a chunk, or its gradient: C transposed, panels (V, Q).
struct TransposedState {
  Panels c;
  float* n = nullptr;
  double m = 0;
};

/// Memory of one thread, for chunks of up to `longest` tokens.
template <class Cell, class Products>
struct Scratch {
  static constexpr Index Q = Cell::qk_dim;
  static constexpr Index V = Cell::v_dim;
  using Element = typename Products::Element;

  ChunkScales scales;
  double* row_sum = nullptr;      ///< Σ_{j<i} G_ij
  double* column_sum = nullptr;   ///< Σ_{i>j} G_ij
  double* diagonal = nullptr;     ///< G_ii
  double* partial = nullptr;      ///< row_sum, from_state or to_state panel by panel, before they are added
  double* from_state = nullptr;   ///< w_i q̂_i·(C δN_i + n δs_i)
  double* to_state = nullptr;     ///< e_j k_j·(δC v_j + δn)
  float* key_weight = nullptr;    ///< e_j, padded to panels
  float* query_weight = nullptr;  ///< w_i/√Q
  float* ds = nullptr;
  float* scores = nullptr;          ///< P, panels (L, L)
  float* dscores = nullptr;         ///< δS/√Q, panels (L, L)
  float* keys = nullptr;            ///< k, panels (L, Q)
  float* queries = nullptr;         ///< q, panels (L, Q)
  float* weighted = nullptr;        ///< w_i/√Q q_i, or e_j k_j; panels (L, Q)
  float* values = nullptr;          ///< v, panels (L, V)
  float* dn_rows = nullptr;         ///< δN, panels (L, V)
  Element* left = nullptr;          ///< packed: q, v or a matrix in turn
  Element* left_dn = nullptr;       ///< packed: δN, then its transpose
  Element* left_scores = nullptr;   ///< packed: δS/√Q, then its transpose
  Element* right_keys = nullptr;    ///< packed: all of k's rows as columns
  Element* right_scores = nullptr;  ///< packed: P
  Element** right = nullptr;        ///< packed: two panels, of each thread that shares a head
  TransposedState states[saved_group];
  TransposedState dstate;

  /// `threads` share a head.
  void allocate(Arena& arena, Index longest, int threads) {
    const auto floats = [&](Index count) { return arena.allocate<float>(count); };
    const auto doubles = [&](Index count) { return arena.allocate<double>(count); };
    const auto packed = [&](Index count) { return arena.allocate<Element>(count); };
    const Index panels = ceil_div(longest, panel_width);
    scales = {doubles(longest), doubles(longest), doubles(longest)};
    for (double** sums : {&row_sum, &column_sum, &diagonal, &from_state, &to_state}) *sums = doubles(longest);
    partial = doubles(longest * std::max(panels, ceil_div(Q, panel_width)));
    key_weight = floats(round_up(longest, panel_width));
    query_weight = floats(longest);
    ds = floats(longest);
    for (float** square : {&scores, &dscores}) *square = floats(Panels::size(longest, longest));
    for (float** rows : {&keys, &queries, &weighted}) *rows = floats(Panels::size(longest, Q));
    for (float** rows : {&values, &dn_rows}) *rows = floats(Panels::size(longest, V));
    left = packed(std::max({left_size(longest, Q), left_size(longest, V), left_size(V, Q)}));
    left_dn = packed(left_size(longest, V));
    left_scores = packed(left_size(longest, longest));
    right_keys = packed(panels * Products::right_size(Q));
    right_scores = packed(panels * Products::right_panel_size(longest));
    right = arena.allocate<Element*>(threads);
    for (int t = 0; t < threads; ++t) right[t] = packed(Products::right_size(V) + Products::right_size(longest));
    for (TransposedState& s : states) s = {{floats(Panels::size(V, Q)), V, Q}, floats(Q), 0};
    dstate = {{floats(Panels::size(V, Q)), V, Q}, floats(Q), 0};
  }
  /// Of a matrix, or of its transpose.
  static constexpr Index left_size(Index rows, Index cols) {
    return std::max(Products::left_size(rows, cols), Products::left_size(cols, rows));
  }
};

}  // namespace xlstm::cpu::backward
