// SPDX-License-Identifier: Apache-2.0
// The parallel form of the mLSTM as plain loops, one row of the S×S matrix at a time (xLSTM, arXiv 2405.04517,
// Eq. 74–80; a first state enters as one more column, with the log weight b_i + m_0):
//     D_ij = Σ_{j<u≤i} log f_u + log i_j  (j ≤ i),   m_i = max(b_i + m_0, max_j D_ij),   P_ij = q̂_i·k_j exp(D_ij − m_i)
//     h_i = (exp(b_i + m_0 − m_i) C_0ᵀq̂_i + Σ_j P_ij v_j) / (max(|exp(b_i + m_0 − m_i) n_0ᵀq̂_i + Σ_j P_ij|, exp(−m_i))
//     + ε)
// To test other computations against; it shares nothing with them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/run.hpp"

namespace xlstm::reference {

/// h (B·S, H·V) from the inputs and the first state, every token from all tokens before it in its document: O(S²).
/// `state`: the first states in, the last ones out; null: zeros in, and the last ones are not kept.
/// A cell without a normalizer gives Cᵀq̂ with C as stored, that is scaled by exp(−m).
template <class Cell, class T>
void mlstm_parallel(const Run& run, const MLSTMInput<const T, Cell>& in, StateSlots<T> state,
                    MatrixView<T, Cell::v_width> h) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  assert(in.q.rows() == run.rows() && in.k.rows() == run.rows() && in.v.rows() == run.rows());
  assert(in.igate.rows() == run.rows() && in.fgate.rows() == run.rows() && h.rows() == run.rows());

  std::vector<T> zeros(Cell::state_size);
  std::vector<T> last(Cell::state_size);
  std::vector<T> log_weights(static_cast<std::size_t>(run.length));
  T* D = log_weights.data();

  for (Index b = 0; b < run.sequences; ++b) {
    const T* first = state ? state[b] : zeros.data();
    for (Index head = 0; head < Cell::heads; ++head) {
      for (Index i = 0; i < run.length; ++i) {
        const Index row = b * run.length + i;

        // The sums of log f are taken from i backwards: differences of one running sum would cancel.
        T decay{0};
        Index document = 0;
        for (Index j = i; j >= 0; --j) {
          const Index row_j = b * run.length + j;
          D[j] = decay + Cell::InputGate::log_gate(Cell::GateCap::apply(in.igate(row_j, head)));
          decay += log_sigmoid(Cell::GateCap::apply(in.fgate(row_j, head)));
          document = j;
          if (run.starts_document(b, j)) break;
        }
        const T* before = run.starts_document(b, document) ? zeros.data() : first;
        const T* C0 = before + head * Q * V;
        const T* n0 = before + Cell::n_offset + head * Q;
        const T log_weight_before = decay + before[Cell::m_offset + head];

        T m{0};
        if (Cell::InputGate::stabilized) {
          m = log_weight_before;
          for (Index j = document; j <= i; ++j) m = std::max(m, D[j]);
        }
        const T weight_before = std::exp(log_weight_before - m);

        const T* q = in.q.row(row) + head * Q;
        T* out = h.row(row) + head * V;
        T s{0};
        for (Index c = 0; c < V; ++c) out[c] = T{0};
        for (Index a = 0; a < Q; ++a) {
          const T scaled_q = q[a] / std::sqrt(T(Q));
          s += weight_before * n0[a] * scaled_q;
          for (Index c = 0; c < V; ++c) out[c] += weight_before * C0[a * V + c] * scaled_q;
        }
        for (Index j = document; j <= i; ++j) {
          const T* k = in.k.row(b * run.length + j) + head * Q;
          const T* v = in.v.row(b * run.length + j) + head * V;
          T product{0};
          for (Index a = 0; a < Q; ++a) product += q[a] / std::sqrt(T(Q)) * k[a];
          const T P = product * std::exp(D[j] - m);
          s += P;
          for (Index c = 0; c < V; ++c) out[c] += P * v[c];
        }
        if constexpr (Cell::Normalizer::active) {
          const T denominator = std::max(std::abs(s), std::exp(-m)) + T(Cell::eps);
          for (Index c = 0; c < V; ++c) out[c] /= denominator;
        }

        if (i + 1 < run.length) continue;
        T* C = last.data() + head * Q * V;
        T* n = last.data() + Cell::n_offset + head * Q;
        for (Index a = 0; a < Q; ++a) {
          for (Index c = 0; c < V; ++c) C[a * V + c] = weight_before * C0[a * V + c];
          n[a] = weight_before * n0[a];
        }
        for (Index j = document; j <= i; ++j) {
          const T* k = in.k.row(b * run.length + j) + head * Q;
          const T* v = in.v.row(b * run.length + j) + head * V;
          const T weight = std::exp(D[j] - m);
          for (Index a = 0; a < Q; ++a) {
            for (Index c = 0; c < V; ++c) C[a * V + c] += weight * k[a] * v[c];
            n[a] += weight * k[a];
          }
        }
        last[static_cast<std::size_t>(Cell::m_offset + head)] = m;
      }
    }
    if (state) std::copy(last.begin(), last.end(), state[b]);
  }
}

}  // namespace xlstm::reference
