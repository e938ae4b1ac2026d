// SPDX-License-Identifier: Apache-2.0
// The gradient of the mLSTM as plain backpropagation through the recurrence of cell/mlstm.hpp, every state kept. With
// δ for the gradient that flows in, s_t = n_tᵀq̂_t, d_t = max(|s_t|, exp(−m_t)) + ε:
//     δN_t = δh_t / d_t,   δs_t = −(δh_t·h_t) / d_t · sign(s_t) where |s_t| > exp(−m_t), else 0
//     δC_t += q̂_t δN_tᵀ,   δn_t += q̂_t δs_t,   δq̂_t = C_t δN_t + n_t δs_t
//     δi'_t = k_tᵀ δC_t v_t + k_t·δn_t,   δk_t = i'_t (δC_t v_t + δn_t),   δv_t = i'_t δC_tᵀ k_t
//     δf'_t = ⟨δC_t, C_{t−1}⟩ + ⟨δn_t, n_{t−1}⟩,   δC_{t−1} = f'_t δC_t,   δn_{t−1} = f'_t δn_t
//     δ log i_t = i'_t δi'_t,   δ log f_t = f'_t δf'_t
// m is a constant: exp(m)·C, exp(m)·n and h (its ε apart) do not depend on it.
// To test other computations against; it shares nothing with them.
#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/run.hpp"

namespace xlstm::reference {

/// The gradients of all inputs, from dh (B·S, H·V), the gradient of h. Needs memory for S·(Q·V + Q) values.
/// `first_state`: what forward began with; null: zeros.
/// `gradient`: written, not added to; of the gates' pre-activations before the soft cap.
/// `dstate`: in, the gradient of the last state's C and n, as scaled by that state's m; out, of the first state's;
/// the entries of m are not read and become 0. Null: zeros in, and nothing out.
template <class Cell, class T>
void mlstm_backward(const Run& run, const MLSTMInput<const T, Cell>& in, StateSlots<const T> first_state,
                    MatrixView<const T, Cell::v_width> dh, const MLSTMInput<T, Cell>& gradient, StateSlots<T> dstate) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  assert(in.q.rows() == run.rows() && in.k.rows() == run.rows() && in.v.rows() == run.rows());
  assert(in.igate.rows() == run.rows() && in.fgate.rows() == run.rows() && dh.rows() == run.rows());
  assert(gradient.q.rows() == run.rows() && gradient.k.rows() == run.rows() && gradient.v.rows() == run.rows());
  assert(gradient.igate.rows() == run.rows() && gradient.fgate.rows() == run.rows());

  /// A token of one head: its gates, and the state after it.
  struct Token {
    T log_i_slope, log_f_slope;  // d log i / d ĩ and d log f / d f̃
    T i, f, m;
    std::vector<T> C, n;
  };
  const std::vector<T> zeros(Cell::state_size);
  const T root = std::sqrt(T(Q));

  for (Index b = 0; b < run.sequences; ++b) {
    std::vector<T> zero_gradient(Cell::state_size);
    T* whole_dstate = dstate ? dstate[b] : zero_gradient.data();
    const T* whole_first = first_state ? first_state[b] : zeros.data();

    for (Index head = 0; head < Cell::heads; ++head) {
      const T* first_C = whole_first + head * Q * V;
      const T* first_n = whole_first + Cell::n_offset + head * Q;

      std::vector<Token> tokens(static_cast<std::size_t>(run.length));
      const auto C_before = [&](Index t) {
        return run.starts_document(b, t) ? zeros.data() : t == 0 ? first_C : tokens[std::size_t(t - 1)].C.data();
      };
      const auto n_before = [&](Index t) {
        return run.starts_document(b, t) ? zeros.data() : t == 0 ? first_n : tokens[std::size_t(t - 1)].n.data();
      };

      for (Index t = 0; t < run.length; ++t) {
        const Index row = b * run.length + t;
        const T* k = in.k.row(row) + head * Q;
        const T* v = in.v.row(row) + head * V;
        Token& token = tokens[std::size_t(t)];

        const T igate = Cell::GateCap::apply(in.igate(row, head));
        const T fgate = Cell::GateCap::apply(in.fgate(row, head));
        token.log_i_slope = Cell::InputGate::derivative(igate) * Cell::GateCap::derivative(igate);
        token.log_f_slope = sigmoid(-fgate) * Cell::GateCap::derivative(fgate);
        const T log_i = Cell::InputGate::log_gate(igate);
        T m_before = t == 0 ? whole_first[Cell::m_offset + head] : tokens[std::size_t(t - 1)].m;
        if (run.starts_document(b, t)) m_before = T{0};
        token.m = Cell::InputGate::stabilized ? std::max(log_sigmoid(fgate) + m_before, log_i) : T{0};
        token.f = std::exp(log_sigmoid(fgate) + m_before - token.m);
        token.i = std::exp(log_i - token.m);

        token.C.assign(C_before(t), C_before(t) + Q * V);
        token.n.assign(n_before(t), n_before(t) + Q);
        for (Index a = 0; a < Q; ++a) {
          for (Index c = 0; c < V; ++c) {
            T& entry = token.C[std::size_t(a * V + c)];
            entry = token.f * entry + token.i * k[a] * v[c];
          }
          token.n[std::size_t(a)] = token.f * token.n[std::size_t(a)] + token.i * k[a];
        }
      }

      T* dC = whole_dstate + head * Q * V;
      T* dn = whole_dstate + Cell::n_offset + head * Q;
      for (Index t = run.length - 1; t >= 0; --t) {
        const Index row = b * run.length + t;
        const Token& token = tokens[std::size_t(t)];
        const T* C = token.C.data();
        const T* n = token.n.data();
        const T* q = in.q.row(row) + head * Q;
        const T* k = in.k.row(row) + head * Q;
        const T* v = in.v.row(row) + head * V;
        const T* dh_t = dh.row(row) + head * V;
        T* dq = gradient.q.row(row) + head * Q;
        T* dk = gradient.k.row(row) + head * Q;
        T* dv = gradient.v.row(row) + head * V;

        T s{0};
        for (Index a = 0; a < Q; ++a) s += n[a] * q[a] / root;
        const T lower_bound = std::exp(-token.m);
        const T d = Cell::Normalizer::active ? std::max(std::abs(s), lower_bound) + T(Cell::eps) : T{1};
        T ds{0};
        if (Cell::denominator_gradient && std::abs(s) > lower_bound) {
          T product{0};  // δh·h
          for (Index c = 0; c < V; ++c) {
            T numerator{0};
            for (Index a = 0; a < Q; ++a) numerator += C[a * V + c] * q[a] / root;
            product += dh_t[c] * numerator / d;
          }
          ds = (s > T{0} ? -product : product) / d;
        }

        for (Index a = 0; a < Q; ++a) {
          T dq_scaled = n[a] * ds;
          for (Index c = 0; c < V; ++c) {
            const T dN = dh_t[c] / d;
            dq_scaled += C[a * V + c] * dN;
            dC[a * V + c] += q[a] / root * dN;
          }
          dn[a] += q[a] / root * ds;
          dq[a] = dq_scaled / root;
        }

        T di{0};
        T df{0};
        const T* C0 = C_before(t);
        const T* n0 = n_before(t);
        for (Index c = 0; c < V; ++c) dv[c] = T{0};
        for (Index a = 0; a < Q; ++a) {
          T dk_over_i = dn[a];
          for (Index c = 0; c < V; ++c) {
            dk_over_i += dC[a * V + c] * v[c];
            dv[c] += token.i * dC[a * V + c] * k[a];
            df += dC[a * V + c] * C0[a * V + c];
          }
          df += dn[a] * n0[a];
          di += dk_over_i * k[a];
          dk[a] = token.i * dk_over_i;
        }
        gradient.igate(row, head) = token.i * di * token.log_i_slope;
        gradient.fgate(row, head) = token.f * df * token.log_f_slope;

        // Nothing flows across a document's start, whatever the value of f there.
        const T f = run.starts_document(b, t) ? T{0} : token.f;
        for (Index a = 0; a < Q * V; ++a) dC[a] *= f;
        for (Index a = 0; a < Q; ++a) dn[a] *= f;
      }
      whole_dstate[Cell::m_offset + head] = T{0};
    }
  }
}

}  // namespace xlstm::reference
