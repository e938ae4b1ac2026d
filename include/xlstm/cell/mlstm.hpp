// SPDX-License-Identifier: Apache-2.0
// The mLSTM cell as a type: its sizes and its policies. The computation is a backend's operation `mlstm`.
//
// Per sequence and head, with q̂ = q/√Q, b the running sum of log f (xLSTM 7B, arXiv 2503.13427, Eq. 3–11):
//     m_t = max(log f_t + m_{t−1}, log i_t)
//     C_t = exp(log f_t + m_{t−1} − m_t) C_{t−1} + exp(log i_t − m_t) k_t v_tᵀ          n_t likewise with v ≡ 1
//     h_t = C_tᵀ q̂_t / (max(|n_tᵀ q̂_t|, exp(−m_t)) + ε)
// with log f = log σ(cap(f̃)) and log i = gate(cap(ĩ)). Before the first token, and at a document's start,
// C = 0, n = 0, m = 0.
#pragma once

#include <concepts>

#include "xlstm/cell/gates.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"

namespace xlstm {

/// The published choices. A variant derives from this and replaces what it changes:
/// `struct Mine : xlstm::MLSTMPolicy { using GateCap = xlstm::NoSoftCap; };`
struct MLSTMPolicy {
  using InputGate = ExponentialInputGate;
  using GateCap = SoftCap<15.0>;  ///< on both gates' pre-activations
  using Normalizer = MaxAbsNormalizer;
  static constexpr double eps = 1e-6;  ///< added to the denominator
  /// Of the chunkwise form, where Run::chunk_size doesn't say; a hint, as a backend may know what is better on its
  /// machine (cpu/mlstm_tuning.hpp).
  static constexpr Index chunk_size = 64;
  /// false drops the gradient through the denominator, as TFLA's kernels do: exact only before a scale-invariant norm.
  static constexpr bool denominator_gradient = true;
};

/// An mLSTM cell of `Heads` heads with query/key dimension QkDim and value dimension VDim each.
template <Index Heads, Index QkDim, Index VDim, class Policy = MLSTMPolicy>
struct MLSTMCell {
  static_assert(Heads > 0, "xlstm: an mLSTM cell needs at least one head; set num_heads");
  static_assert(QkDim > 0, "xlstm: the query/key dimension of a head is zero; raise qk_dim_factor or lower num_heads");
  static_assert(VDim > 0, "xlstm: the value dimension of a head is zero; raise v_dim_factor or lower num_heads");
  static_assert(
      requires {
        typename Policy::InputGate;
        typename Policy::GateCap;
        typename Policy::Normalizer;
        Policy::eps;
        Policy::chunk_size;
        Policy::denominator_gradient;
      },
      "xlstm: a cell's policy lacks something that MLSTMPolicy has; derive it from xlstm::MLSTMPolicy");
  static_assert(Policy::chunk_size > 0, "xlstm: chunk_size must be at least 1");
  static_assert(Policy::eps >= 0, "xlstm: the cell's eps must not be negative");

  using InputGate = typename Policy::InputGate;
  using GateCap = typename Policy::GateCap;
  using Normalizer = typename Policy::Normalizer;
  static constexpr Index heads = Heads;
  static constexpr Index qk_dim = QkDim;  ///< Q, of one head
  static constexpr Index v_dim = VDim;    ///< V, of one head
  static constexpr Index qk_width = Heads * QkDim;
  static constexpr Index v_width = Heads * VDim;
  static constexpr Index chunk_size = Policy::chunk_size;
  static constexpr double eps = Policy::eps;
  static constexpr bool denominator_gradient = Policy::denominator_gradient && Normalizer::active;

  /// A sequence's state is C (H, Q, V), then n (H, Q), then m (H), all adjacent.
  static constexpr Index c_size = Heads * QkDim * VDim;
  static constexpr Index n_offset = c_size;
  static constexpr Index m_offset = c_size + Heads * QkDim;
  static constexpr Index state_size = m_offset + Heads;
};

/// The cell's input: one row a token, pre-activations of the gates before any soft cap. const T in forward.
template <class T, class Cell, class Gate = T>
struct MLSTMInput {
  MatrixView<T, Cell::qk_width> q;      ///< (rows, H·Q)
  MatrixView<T, Cell::qk_width> k;      ///< (rows, H·Q)
  MatrixView<T, Cell::v_width> v;       ///< (rows, H·V)
  MatrixView<Gate, Cell::heads> igate;  ///< ĩ, (rows, H)
  MatrixView<Gate, Cell::heads> fgate;  ///< f̃, (rows, H)
};

}  // namespace xlstm
