// SPDX-License-Identifier: Apache-2.0
// The chunkwise form of the mLSTM as plain loops (TFLA, arXiv 2503.14376, §2.2). Chunks are summarised, their
// summaries scanned into the states between them, and each chunk's output computed from the state before it:
//     summary:  g = Σ log f,   a_j = Σ_{j<u} log f_u + log i_j,   m = max_j a_j,   C = Σ_j exp(a_j − m) k_j v_jᵀ
//     output:   D_ij = Σ_{j<u≤i} log f_u + log i_j  (j ≤ i),   b_i = Σ_{u≤i} log f_u,   μ_i = max(b_i + m_before, max_j
//     D_ij)
//               P_ij = q̂_i·k_j exp(D_ij − μ_i),   w_i = exp(b_i + m_before − μ_i)
//               h_i = (w_i C_beforeᵀq̂_i + Σ_j P_ij v_j) / (max(|w_i n_beforeᵀq̂_i + Σ_j P_ij|, exp(−μ_i)) + ε)
// To test other computations against.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "xlstm/cell/chunks.hpp"
#include "xlstm/cell/mlstm.hpp"
#include "xlstm/cell/scan.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/core/scan.hpp"

namespace xlstm::reference {

/// C's entries, then n's, of one head: as a state, or as what a chunk adds to one.
template <class T>
using HeadSummary = Summary<T, std::vector<T>>;

/// What tokens [first, first + length) of a head's rows do to its state.
template <class Cell, class T>
HeadSummary<T> mlstm_summarize(const MLSTMInput<const T, Cell>& in, Index head, Index first, Index length) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  std::vector<T> log_weights(static_cast<std::size_t>(length));
  T* weight = log_weights.data();
  T g{0};
  T m = Cell::InputGate::stabilized ? -std::numeric_limits<T>::infinity() : T{0};
  for (Index j = length - 1; j >= 0; --j) {
    weight[j] = g + Cell::InputGate::log_gate(Cell::GateCap::apply(in.igate(first + j, head)));
    if (Cell::InputGate::stabilized) m = std::max(m, weight[j]);
    g += log_sigmoid(Cell::GateCap::apply(in.fgate(first + j, head)));
  }

  HeadSummary<T> summary{{g, m, false}, std::vector<T>(Q * V + Q)};
  T* C = summary.values.data();
  T* n = C + Q * V;
  for (Index j = 0; j < length; ++j) {
    const T* k = in.k.row(first + j) + head * Q;
    const T* v = in.v.row(first + j) + head * V;
    const T scaled = std::exp(weight[j] - m);
    for (Index a = 0; a < Q; ++a) {
      for (Index c = 0; c < V; ++c) C[a * V + c] += scaled * k[a] * v[c];
      n[a] += scaled * k[a];
    }
  }
  return summary;
}

/// h of tokens [first, first + length) of a head's rows, from the state before them.
template <class Cell, class T>
void mlstm_chunk_output(const MLSTMInput<const T, Cell>& in, Index head, Index first, Index length,
                        const HeadSummary<T>& before, MatrixView<T, Cell::v_width> h) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  const T* C = before.values.data();
  const T* n = C + Q * V;
  std::vector<T> log_weights(static_cast<std::size_t>(length));
  T* D = log_weights.data();

  for (Index i = 0; i < length; ++i) {
    T b{0};
    for (Index j = i; j >= 0; --j) {
      D[j] = b + Cell::InputGate::log_gate(Cell::GateCap::apply(in.igate(first + j, head)));
      b += log_sigmoid(Cell::GateCap::apply(in.fgate(first + j, head)));
    }
    T mu{0};
    if (Cell::InputGate::stabilized) {
      mu = b + before.stretch.m;
      for (Index j = 0; j <= i; ++j) mu = std::max(mu, D[j]);
    }

    const T* q = in.q.row(first + i) + head * Q;
    T* out = h.row(first + i) + head * V;
    const T w = std::exp(b + before.stretch.m - mu);
    T s{0};
    for (Index c = 0; c < V; ++c) out[c] = T{0};
    for (Index a = 0; a < Q; ++a) {
      const T scaled_q = q[a] / std::sqrt(T(Q));
      s += w * n[a] * scaled_q;
      for (Index c = 0; c < V; ++c) out[c] += w * C[a * V + c] * scaled_q;
    }
    for (Index j = 0; j <= i; ++j) {
      const T* k = in.k.row(first + j) + head * Q;
      const T* v = in.v.row(first + j) + head * V;
      T product{0};
      for (Index a = 0; a < Q; ++a) product += q[a] / std::sqrt(T(Q)) * k[a];
      const T P = product * std::exp(D[j] - mu);
      s += P;
      for (Index c = 0; c < V; ++c) out[c] += P * v[c];
    }
    if constexpr (Cell::Normalizer::active) {
      const T denominator = std::max(std::abs(s), std::exp(-mu)) + T(Cell::eps);
      for (Index c = 0; c < V; ++c) out[c] /= denominator;
    }
  }
}

/// h (B·S, H·V) from the inputs and the first state, in chunks of run.chunk_size or else the cell's.
/// `state`: the first states in, the last ones out; null: zeros in, and the last ones are not kept.
/// A cell without a normalizer gives Cᵀq̂ with C as stored, that is scaled by exp(−m).
template <class Cell, class T>
void mlstm_chunkwise(const Run& run, const MLSTMInput<const T, Cell>& in, StateSlots<T> state,
                     MatrixView<T, Cell::v_width> h) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  assert(in.q.rows() == run.rows() && in.k.rows() == run.rows() && in.v.rows() == run.rows());
  assert(in.igate.rows() == run.rows() && in.fgate.rows() == run.rows() && h.rows() == run.rows());

  for (Index b = 0; b < run.sequences; ++b) {
    std::vector<T> zeros(Cell::state_size);
    T* whole = state ? state[b] : zeros.data();
    const Chunks chunks(run, b, run.chunk_size > 0 ? run.chunk_size : Cell::chunk_size);
    for (Index head = 0; head < Cell::heads; ++head) {
      T* C = whole + head * Q * V;
      T* n = whole + Cell::n_offset + head * Q;
      T& m = whole[Cell::m_offset + head];

      HeadSummary<T> first{Stretch<T>::state(m), std::vector<T>(C, C + Q * V)};
      first.values.insert(first.values.end(), n, n + Q);
      const HeadSummary<T> fresh{Stretch<T>::fresh(), std::vector<T>(Q * V + Q)};

      // states[c] is the state before chunk c, and states.back() the last one.
      std::vector<HeadSummary<T>> states{first};
      for (const Chunk& chunk : chunks) {
        auto summary = mlstm_summarize<Cell, T>(in, head, b * run.length + chunk.first, chunk.length);
        states.push_back(chunk.fresh ? combine(fresh, summary) : summary);
      }
      inclusive_scan(std::span(states), StateMonoid{});

      std::size_t before = 0;
      for (const Chunk& chunk : chunks) {
        mlstm_chunk_output<Cell, T>(in, head, b * run.length + chunk.first, chunk.length,
                                    chunk.fresh ? fresh : states[before], h);
        ++before;
      }

      std::copy_n(states.back().values.data(), Q * V, C);
      std::copy_n(states.back().values.data() + Q * V, Q, n);
      m = states.back().stretch.m;
    }
  }
}

}  // namespace xlstm::reference
