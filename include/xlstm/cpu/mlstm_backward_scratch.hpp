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

/// The state before a chunk, or its gradient.
struct HeldState {
  Panels c;  ///< (Q, V)
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
  double* log_forget_slope = nullptr;  ///< σ(−f) = d log σ(f) / df
  double* row_sum = nullptr;           ///< Σ_{j<i} G_ij
  double* column_sum = nullptr;        ///< Σ_{i>j} G_ij
  double* diagonal = nullptr;          ///< G_ii
  double* partial = nullptr;           ///< sums panel by panel, before they are added
  double* from_state = nullptr;        ///< w_i q̂_i·(C δN_i + n δs_i)
  double* to_state = nullptr;          ///< e_j k_j·(δC v_j + δn)
  float* key_weight = nullptr;         ///< e_j
  float* query_weight = nullptr;       ///< w_i/√Q
  float* ds = nullptr;
  float* scores = nullptr;              ///< P, panels (L, L)
  float* dscores = nullptr;             ///< δS/√Q, panels (L, L)
  float* keys = nullptr;                ///< k, panels (L, Q)
  float* queries = nullptr;             ///< q, panels (L, Q)
  float* weighted = nullptr;            ///< w_i/√Q q_i, or e_j k_j; panels (L, Q)
  float* values = nullptr;              ///< v, panels (L, V)
  float* dn_rows = nullptr;             ///< δN, panels (L, V)
  Element* left = nullptr;              ///< packed: q, v, k in turn
  Element* left_dn = nullptr;           ///< packed: δN, then the transpose of w_i/√Q q_i
  Element* left_scores = nullptr;       ///< packed: δS/√Q, its transpose, the transpose of P in turn
  Element** right = nullptr;            ///< packed: two operands, of each thread that shares a head
  HeldState states[saved_group<Cell>];  ///< before the chunks of a group; C of the first lies among what forward kept
  HeldState dstate;

  /// `threads` share a head.
  void allocate(Arena& arena, Index longest, int threads) {
    const auto floats = [&](Index count) { return arena.allocate<float>(count); };
    const auto doubles = [&](Index count) { return arena.allocate<double>(count); };
    const auto packed = [&](Index count) { return arena.allocate<Element>(count); };
    scales = allocate_scales(arena, longest);
    log_forget_slope = doubles(scale_count(longest));
    for (double** sums : {&row_sum, &column_sum, &diagonal, &from_state, &to_state})
      *sums = doubles(scale_count(longest));
    partial = doubles(std::max(longest * ceil_div(std::max(longest, Q), panel_width), ceil_div(V, panel_width)));
    key_weight = floats(scale_count(longest));
    query_weight = floats(scale_count(longest));
    ds = floats(longest);
    for (float** square : {&scores, &dscores}) *square = floats(Panels::size(longest, longest));
    for (float** rows : {&keys, &queries, &weighted}) *rows = floats(Panels::size(longest, Q));
    dn_rows = floats(Panels::size(longest, V));
    values = Products::packs ? nullptr : floats(Panels::size(longest, V));
    left = packed(std::max(left_size(longest, Q), left_size(longest, V)));
    left_dn = packed(std::max(left_size(longest, V), left_size(longest, Q)));
    left_scores = packed(left_size(longest, longest));
    right = arena.allocate<Element*>(threads);
    for (int t = 0; t < threads; ++t)
      right[t] = packed(Products::right_size(std::max(Q, V)) + Products::right_size(longest));
    for (Index i = 0; i < saved_group<Cell>; ++i)
      states[i] = {{i == 0 ? nullptr : floats(Panels::size(Q, V)), Q, V}, floats(Q), 0};
    dstate = {{floats(Panels::size(Q, V)), Q, V}, floats(Q), 0};
  }
  /// Of a matrix, or of its transpose.
  static constexpr Index left_size(Index rows, Index cols) {
    return std::max(Products::left_size(rows, cols), Products::left_size(cols, rows));
  }
};

}  // namespace xlstm::cpu::backward
