// SPDX-License-Identifier: Apache-2.0
// The recurrent form of the mLSTM as a plain loop (xLSTM 7B, arXiv 2503.13427, Eq. 3–11; written out in
// cell/mlstm.hpp). To test other computations against; it shares nothing with them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/run.hpp"

namespace xlstm::reference {

/// h (B·S, H·V) from the inputs and the first state, token by token.
/// `state`: the first states in, the last ones out; null: zeros in, and the last ones are not kept.
/// A cell without a normalizer gives Cᵀq̂ with C as stored, that is scaled by exp(−m).
template <class Cell, class T>
void mlstm_recurrent(const Run& run, const MLSTMInput<const T, Cell>& in, StateSlots<T> state,
                     MatrixView<T, Cell::v_width> h) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  assert(in.q.rows() == run.rows() && in.k.rows() == run.rows() && in.v.rows() == run.rows());
  assert(in.igate.rows() == run.rows() && in.fgate.rows() == run.rows() && h.rows() == run.rows());

  for (Index b = 0; b < run.sequences; ++b) {
    std::vector<T> zeros(Cell::state_size);
    T* whole = state ? state[b] : zeros.data();
    for (Index head = 0; head < Cell::heads; ++head) {
      T* C = whole + head * Q * V;
      T* n = whole + Cell::n_offset + head * Q;
      T& m = whole[Cell::m_offset + head];

      for (Index t = 0; t < run.length; ++t) {
        const Index row = b * run.length + t;
        const T* q = in.q.row(row) + head * Q;
        const T* k = in.k.row(row) + head * Q;
        const T* v = in.v.row(row) + head * V;
        T* out = h.row(row) + head * V;

        if (run.starts_document(b, t)) {
          std::fill(C, C + Q * V, T{0});
          std::fill(n, n + Q, T{0});
          m = T{0};
        }

        const T log_f = log_sigmoid(Cell::GateCap::apply(in.fgate(row, head)));
        const T log_i = Cell::InputGate::log_gate(Cell::GateCap::apply(in.igate(row, head)));
        const T m_before = m;
        m = Cell::InputGate::stabilized ? std::max(log_f + m_before, log_i) : T{0};
        const T f = std::exp(log_f + m_before - m);
        const T i = std::exp(log_i - m);
        for (Index a = 0; a < Q; ++a) {
          for (Index c = 0; c < V; ++c) C[a * V + c] = f * C[a * V + c] + i * k[a] * v[c];
          n[a] = f * n[a] + i * k[a];
        }

        T s{0};
        for (Index c = 0; c < V; ++c) out[c] = T{0};
        for (Index a = 0; a < Q; ++a) {
          const T scaled_q = q[a] / std::sqrt(T(Q));
          s += n[a] * scaled_q;
          for (Index c = 0; c < V; ++c) out[c] += C[a * V + c] * scaled_q;
        }
        if constexpr (Cell::Normalizer::active) {
          const T denominator = std::max(std::abs(s), std::exp(-m)) + T(Cell::eps);
          for (Index c = 0; c < V; ++c) out[c] /= denominator;
        }
      }
    }
  }
}

}  // namespace xlstm::reference
