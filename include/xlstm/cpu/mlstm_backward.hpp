// SPDX-License-Identifier: Apache-2.0
// The mLSTM's backward pass on the CPU, exact, the denominator included (TFLA, arXiv 2503.14376, App. B, and the part
// through the denominator that its kernels leave out). With the names of mlstm_chunkwise.hpp and δ for gradients:
//     δN_i = δh_i / d_i      δs_i = −(δh_i·h_i)/d_i sign(s_i) where |s_i| > exp(−μ_i), else 0
//     δS_ij = (δN_i·v_j + δs_i) exp(c_j − M_i) for j ≤ i, of the score q̂_i·k_j
//     δq̂_i = w_i (C δN_i + n δs_i) + Σ_j δS_ij k_j
//     δk_j = e_j (δC v_j + δn)     + Σ_i δS_ij q̂_i             e_j = exp(c_j − M_L)
//     δv_j = e_j δCᵀ k_j           + Σ_i P_ij δN_i
//     δC ← exp(m − M_L) δC + Σ_i w_i q̂_i δN_iᵀ                 δn ← exp(m − M_L) δn + Σ_i w_i q̂_i δs_i
//     δ log i_t = k_t·δk_t
//     δ log f_t = Σ_{j<t≤i} G_ij + Σ_{i≥t} w_i q̂_i·(C δN_i + n δs_i) + Σ_{j<t} e_j k_j·(δC v_j + δn)
//                 + exp(m − M_L) (⟨δC, C⟩ + ⟨δn, n⟩)      G_ij = P_ij (δN_i·v_j + δs_i), indices in the chunk,
//                                                         C, n before and δC, δn after the chunk
// The last is all that f_t scales: pairs across it, the state's way to outputs, inputs' way to the next state, and the
// state's. It equals the usual Σ_{i≥t} (q_i·δq_i − k_i·δk_i) over everything later, but takes no difference in which
// G_tt cancels, so that small gradients of closed forget gates keep their digits and no error grows with the sequence
// (docs/gradients.md has the numbers). Sums over tokens are double.
// Four products a chunk have the state's size, and one more where the state before it was not kept.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cpu/chunk_products.hpp"
#include "xlstm/cpu/mlstm_backward_scratch.hpp"
#include "xlstm/cpu/mlstm_chunkwise.hpp"
#include "xlstm/cpu/mlstm_columns.hpp"
#include "xlstm/cpu/mlstm_saved.hpp"
#include "xlstm/cpu/mlstm_scales.hpp"
#include "xlstm/cpu/panels.hpp"

namespace xlstm::cpu::backward {

/// One head of one sequence. `Inner` divides each product by panels, where there are too few heads for all threads.
template <class Cell, class Products, class Inner>
struct Head {
  static constexpr Index Q = Cell::qk_dim;
  static constexpr Index V = Cell::v_dim;
  using Session = typename Products::Session;
  using Element = typename Products::Element;
  using Left = typename Products::Left;

  const MLSTMInput<const float, Cell>& in;
  MatrixView<const float, Cell::v_width> h;
  const MLSTMSaved<Cell>& saved;
  MatrixView<const float, Cell::v_width> dh;
  const MLSTMInput<float, Cell>& gradient;
  Scratch<Cell, Products>& s;
  Inner& inner;
  Index sequence;
  Index head;
  Index first_row;  ///< of the sequence

  Index row(const Chunk& chunk) const { return first_row + chunk.first; }
  const float* q(const Chunk& chunk) const { return in.q.row(row(chunk)) + head * Q; }
  const float* k(const Chunk& chunk) const { return in.k.row(row(chunk)) + head * Q; }
  const float* v(const Chunk& chunk) const { return in.v.row(row(chunk)) + head * V; }

  /// A left operand of rows × depth in packed form.
  Left pack_left(const LeftOperand& from, Index rows, Index depth, Part part, Element* memory) const {
    if constexpr (Products::packs) {
      inner.parallel_for(ceil_div(rows, panel_width),
                         [&](Index p, int) { Products::pack_left(from, rows, depth, p, part, memory); });
    }
    return Products::left(from, depth, memory);
  }

  /// The kept state before a group's first chunk.
  void load_state(Index group) const {
    HeldState& state = s.states[0];
    state.c.data = saved.c_of(sequence, group, head);
    std::copy_n(saved.n_of(sequence, group, head), Q, state.n);
    state.m = saved.m_of(sequence, group, head);
  }

  /// Weights of the chunk from the m before it; returns exp(m − M_L) and the m after it.
  struct Passage {
    float decay;
    double m;
  };
  Passage weights(const Chunk& chunk, double m) const {
    if (chunk.fresh) m = 0;
    const double after = chunk_scales(in, row(chunk), chunk.length, head, m, s.scales);
    key_weights(s.scales, chunk.length, s.key_weight);
    if (chunk.fresh) {
      std::fill_n(s.query_weight, chunk.length, 0.0F);
      return {0.0F, after};
    }
    query_weights<Cell>(s.scales, chunk.length, m, s.query_weight);
    return {static_cast<float>(std::exp(m - s.scales.maximum[chunk.length - 1])), after};
  }

  /// states[i + 1] from states[i].
  void advance(const Chunk& chunk, Index i) const {
    const HeldState& from = s.states[i];
    HeldState& to = s.states[i + 1];
    const Passage passage = weights(chunk, from.m);
    to.m = passage.m;
    const Panels keys{s.weighted, chunk.length, Q};
    pack(keys, k(chunk), in.k.stride(), [this](Index t) { return s.key_weight[t]; });
    ColumnStep<Products, Part::lower, Q> step;
    step.updates = pack_left(LeftOperand::columns_of(keys), Q, chunk.length, Part::all, s.left);
    step.decay = passage.decay;
    step.length = chunk.length;
    inner.parallel_for(to.c.count(), [&](Index p, int thread) {
      [[maybe_unused]] const Session session;
      const Index first = p * panel_width;
      const Element* const values =
          Products::right_of_rows(v(chunk) + first, in.v.stride(), chunk.length, V - first, s.right[thread]);
      step.update(chunk.fresh ? nullptr : from.c.panel(p), values, to.c.panel(p));
    });
    accumulate(to.n, chunk.fresh ? nullptr : from.n, passage.decay, keys, [](Index) { return 1.0F; });
  }

  /// to = decay·from + Σ_t factor(t) rows_t.
  template <class Factor>
  static void accumulate(float* to, const float* from, float decay, const Panels& rows, Factor factor) {
    for (Index p = 0; p < rows.count(); ++p) {
      simd::Floats sum[panel_vectors] = {};
      for (Index t = 0; t < rows.rows; ++t) {
        const simd::Floats f = simd::broadcast(factor(t));
        for (int v = 0; v < panel_vectors; ++v)
          sum[v] += f * simd::load(rows.panel(p) + t * panel_width + v * simd::width);
      }
      for (int v = 0; v < panel_vectors; ++v) {
        const Index first = p * panel_width + v * simd::width;
        const Index count = std::min<Index>(simd::width, Q - first);
        if (count <= 0) break;
        if (from != nullptr) sum[v] += simd::broadcast(decay) * simd::load_first(from + first, count);
        simd::store_first(to + first, sum[v], count);
      }
    }
  }

  /// δN and δs.
  void output_gradient(const Chunk& chunk) const {
    const Panels to{s.dn_rows, chunk.length, V};
    for (Index t = 0; t < chunk.length; ++t) {
      const Index at = (row(chunk) + t) * Cell::heads + head;
      s.ds[t] = 0;
      if (saved.sum_factor[at] != 0)
        s.ds[t] =
            saved.sum_factor[at] * simd::dot(dh.row(row(chunk) + t) + head * V, h.row(row(chunk) + t) + head * V, V);
    }
    pack(to, dh.row(row(chunk)) + head * V, dh.stride(),
         [&](Index t) { return saved.inverse_denominator[(row(chunk) + t) * Cell::heads + head]; });
  }

  /// P and δS.
  void scores(const Chunk& chunk) const {
    const Index L = chunk.length;
    const Panels P{s.scores, L, L};
    const Panels dS{s.dscores, L, L};
    const Panels dN{s.dn_rows, L, V};
    const Panels queries{s.queries, L, Q};
    const Left left_q = pack_left(LeftOperand::rows_of(queries), L, Q, Part::all, s.left);
    const Left left_dn = pack_left(LeftOperand::rows_of(dN), L, V, Part::all, s.left_dn);
    inner.parallel_for(P.count(), [&](Index p, int thread) {
      [[maybe_unused]] const Session session;
      const Index first = p * panel_width;
      const auto product = [&](const Left& left, const float* columns, Index stride, Index depth, float* to) {
        const Element* const right = Products::right_of_columns(columns, stride, depth, L - first, s.right[thread]);
        Products::for_each_tile(first, L, to, [&](auto& tile, Index i) XLSTM_INLINE_LAMBDA {
          tile.clear();
          tile.add(left, i, right, depth);
          tile.store(to + i * panel_width, panel_width);
        });
      };
      product(left_q, k(chunk) + first * in.k.stride(), in.k.stride(), Q, P.panel(p));
      product(left_dn, v(chunk) + first * in.v.stride(), in.v.stride(), V, dS.panel(p));
      weigh_panel(P, dS, p);
    });
    add_partials(P.count(), L, s.row_sum);
  }

  /// Panel p of P and δS from products to what they are, and its part of the sums over G.
  void weigh_panel(const Panels& P, const Panels& dS, Index p) const {
    const Index first = p * panel_width;
    std::fill_n(s.partial + p * P.rows, P.rows, 0.0);
    for (Index v = 0; v < panel_vectors; ++v) {
      const Index column = first + v * simd::width;
      simd::Doubles low{}, high{};  // Σ_i G_ij
      for (Index i = first; i < std::min(column, P.rows); ++i) {
        simd::store(P.panel(p) + i * panel_width + v * simd::width, simd::zero());
        simd::store(dS.panel(p) + i * panel_width + v * simd::width, simd::zero());
      }
      for (Index i = column; i < P.rows; ++i) {
        const Index at = i * panel_width + v * simd::width;
        const simd::Floats g = weigh(P.panel(p) + at, dS.panel(p) + at, column, i);
        low += simd::widen_low(g);
        high += simd::widen_high(g);
        s.partial[p * P.rows + i] += static_cast<double>(simd::reduce_add(g));
      }
      simd::store(s.column_sum + column, low);
      simd::store(s.column_sum + column + simd::double_width, high);
    }
  }

  /// P and δS of row i in a vector of columns from `column` ≤ i on, zero right of the diagonal. Returns G left of it;
  /// what is on it is kept.
  XLSTM_INLINE simd::Floats weigh(float* score, float* dscore, Index column, Index i) const {
    const Index count = i + 1 - column;
    const simd::Floats x = simd::differences(s.scales.c + column, s.scales.maximum[i]);
    const simd::Floats decay = query_scale<Cell> * simd::exp_of_negative(x);
    const simd::Floats d = simd::load(dscore) + simd::broadcast(s.ds[i]);
    const simd::Floats p = simd::first_of(simd::load(score) * decay, count);
    simd::store(score, p);
    simd::store(dscore, simd::first_of(d * decay, count));
    const simd::Floats g = simd::first_of(d * p, count);
    if (count > simd::width) return g;
    s.diagonal[i] = static_cast<double>(g[count - 1]);
    return simd::first_of(g, count - 1);
  }

  /// to_t = Σ_p partial(p, t), in the panels' order whoever computed them.
  void add_partials(Index panels, Index length, double* to) const {
    std::fill_n(to, length, 0.0);
    for (Index p = 0; p < panels; ++p)
      for (Index t = 0; t < length; ++t) to[t] += s.partial[p * length + t];
  }

  /// What δq̂ and δk have in common, of which x is q̂ or k:
  ///     to_t = weight_t (state·rows_t + factor_t n) + Σ_s pairs_ts values_s,    sums_t = x_t·(the first of the two
  ///     terms).
  /// `state`: its C transposed is multiplied by (L, V) rows; null for zeros.
  template <Part part>
  struct RowGradient {
    Left rows;
    Left pairs;
    const Panels& values;
    const Panels& x;
    const float* weight;
    double* sums;
  };
  template <Part part, class Factor>
  void row_gradient(const Chunk& chunk, const RowGradient<part>& of, const HeldState* state, Factor&& factor,
                    const MatrixView<float, Cell::qk_width>& to) const {
    const Index L = chunk.length;
    inner.parallel_for(of.x.count(), [&](Index p, int thread) {
      [[maybe_unused]] const Session session;
      const Index first = p * panel_width;
      double* partial = s.partial + p * L;
      std::fill_n(partial, L, 0.0);
      Element* const memory = s.right[thread];
      const Element* const right_state = state != nullptr ? Products::right_of_rows(state->c, first, memory) : nullptr;
      const Element* const values =
          Products::right_of_panel(of.values.panel(p), 0, L, memory + Products::right_size(std::max(Q, V)));
      Products::for_each_tile(0, L, nullptr, [&](auto& tile, Index t) XLSTM_INLINE_LAMBDA {
        tile.clear();
        if (state != nullptr) {
          tile.add(of.rows, t, right_state, V);
          tile.scale(of.weight + t);
          tile.add_row_dots(of.x.panel(p) + t * panel_width, partial + t);
        }
        if constexpr (part == Part::lower)
          tile.add_lower(of.pairs, t, values, L);
        else
          tile.add_upper(of.pairs, t, values, L);
        tile.store(to.row(row(chunk) + t) + head * Q + first, to.stride(), Q - first);
      });
    });
    add_partials(of.x.count(), L, of.sums);
    if (state == nullptr) return;
    for (Index t = 0; t < L; ++t) {
      const float f = of.weight[t] * factor(t);
      float* const out = to.row(row(chunk) + t) + head * Q;
      double dot = 0;
      for (Index p = 0; p < of.x.count(); ++p) {
        const Index first = p * panel_width;
        const Index width = std::min(panel_width, Q - first);
        dot += static_cast<double>(simd::dot(state->n + first, of.x.panel(p) + t * panel_width, width));
        for (Index c = 0; c < width; ++c) out[first + c] += f * state->n[first + c];
      }
      of.sums[t] += static_cast<double>(f) * dot;
    }
  }

  void query_gradient(const Chunk& chunk, const HeldState& state) const {
    const Index L = chunk.length;
    const Panels dS{s.dscores, L, L};
    const Panels dN{s.dn_rows, L, V};
    const Panels keys{s.keys, L, Q};
    const Panels queries{s.queries, L, Q};
    const Left rows = Products::left(LeftOperand::rows_of(dN), V, s.left_dn);  // packed for the scores
    const Left pairs = pack_left(LeftOperand::rows_of(dS), L, L, Part::lower, s.left_scores);
    const RowGradient<Part::lower> of{rows, pairs, keys, queries, s.query_weight, s.from_state};
    row_gradient(
        chunk, of, chunk.fresh ? nullptr : &state, [this](Index t) { return s.ds[t]; }, gradient.q);
  }

  /// `last`: nothing comes after the chunk, so that the gradient of the state after it is zero.
  void key_gradient(const Chunk& chunk, bool last) const {
    const Index L = chunk.length;
    const Panels dS{s.dscores, L, L};
    const Panels queries{s.queries, L, Q};
    const Panels keys{s.keys, L, Q};
    const Left rows = pack_left(values(chunk), L, V, Part::all, s.left);
    const Left pairs = pack_left(LeftOperand::columns_of(dS), L, L, Part::upper, s.left_scores);
    const RowGradient<Part::upper> of{rows, pairs, queries, keys, s.key_weight, s.to_state};
    row_gradient(
        chunk, of, last ? nullptr : &s.dstate, [](Index) { return 1.0F; }, gradient.k);
  }
  /// v as a left operand: where it lies, or in panels, whose rows are not pages apart.
  LeftOperand values(const Chunk& chunk) const {
    if constexpr (Products::packs) return LeftOperand::rows_of(v(chunk), in.v.stride());
    const Panels copy{s.values, chunk.length, V};
    pack(copy, v(chunk), in.v.stride());
    return LeftOperand::rows_of(copy);
  }

  /// δv, and δC from the one after the chunk to the one before it; returns their product ⟨δC, C⟩ before that.
  double value_and_state_gradient(const Chunk& chunk, bool last, float decay, const HeldState& state) const {
    const Index L = chunk.length;
    const Panels P{s.scores, L, L};
    const Panels dN{s.dn_rows, L, V};
    const Panels keys{s.keys, L, Q};
    const Panels queries{s.weighted, L, Q};
    pack(queries, q(chunk), in.q.stride(), [this](Index t) { return s.query_weight[t]; });
    ColumnStep<Products, Part::upper, Q> step;
    step.rows = pack_left(LeftOperand::rows_of(keys), L, Q, Part::all, s.left);
    step.weight = s.key_weight;
    step.pairs = pack_left(LeftOperand::columns_of(P), L, L, Part::upper, s.left_scores);
    if (!chunk.fresh) step.updates = pack_left(LeftOperand::columns_of(queries), Q, L, Part::all, s.left_dn);
    step.decay = decay;
    step.length = L;
    const MatrixView<float, Cell::v_width>& to = gradient.v;
    inner.parallel_for(dN.count(), [&](Index p, int thread) {
      [[maybe_unused]] const Session session;
      const Index first = p * panel_width;
      Element* const memory = s.right[thread];
      const Element* const right =
          Products::right_of_panel(dN.panel(p), 0, L, memory + Products::right_size(std::max(Q, V)));
      float* const dstate = s.dstate.c.panel(p);
      float* const out = to.row(row(chunk)) + head * V + first;
      step.output(last ? nullptr : dstate, right, memory, out, to.stride(), std::min(panel_width, V - first));
      s.partial[p] = 0;
      if (chunk.fresh) return;
      const Panels before{state.c.panel(p), Q, panel_width};
      const Panels after{dstate, Q, panel_width};
      if (!last) s.partial[p] = dot(after, before);
      step.update(last ? nullptr : dstate, right, dstate);
    });
    double product = 0;
    for (Index p = 0; p < dN.count(); ++p) product += s.partial[p];
    if (chunk.fresh) return 0;
    if (!last) product += static_cast<double>(simd::dot(s.dstate.n, state.n, Q));
    accumulate(s.dstate.n, last ? nullptr : s.dstate.n, decay, queries, [this](Index t) { return s.ds[t]; });
    return product;
  }

  /// `through`: the part of the gradient of log f that goes from state to state.
  void gate_gradient(const Chunk& chunk, double through) const {
    const double *const igate = s.scales.igate, *const fgate = s.scales.fgate;
    double before = 0;  // Σ_{j<t} to_state_j
    for (Index t = 0; t < chunk.length; ++t) {
      const double di = s.to_state[t] + s.column_sum[t] + s.diagonal[t];
      gradient.igate.row(row(chunk) + t)[head] =
          static_cast<float>(di * Cell::InputGate::derivative(igate[t]) * Cell::GateCap::derivative(igate[t]));
      before += std::exchange(s.to_state[t], before);
    }
    simd::transform(fgate, chunk.length, s.log_forget_slope, [](simd::Doubles f) { return simd::sigmoid(-f); });
    double pairs = 0;  // Σ_{j<t≤i} G_ij
    double later = 0;  // Σ_{i≥t} from_state_i
    for (Index t = chunk.length - 1; t >= 0; --t) {
      pairs += s.row_sum[t] - s.column_sum[t];
      later += s.from_state[t];
      const double df = (t > 0 ? pairs : 0.0) + later + s.to_state[t] + through;
      gradient.fgate.row(row(chunk) + t)[head] =
          static_cast<float>(df * s.log_forget_slope[t] * Cell::GateCap::derivative(fgate[t]));
    }
  }

  /// Gradients of one chunk, and δC, δn from those after it to those before it.
  void chunk(const Chunk& c, const HeldState& state, bool last) const {
    const Passage passage = weights(c, state.m);
    const Panels keys{s.keys, c.length, Q};
    const Panels queries{s.queries, c.length, Q};
    pack(keys, k(c), in.k.stride());
    pack(queries, q(c), in.q.stride());
    output_gradient(c);
    scores(c);
    query_gradient(c, state);
    key_gradient(c, last);
    const double product = value_and_state_gradient(c, last, passage.decay, state);
    gate_gradient(c, static_cast<double>(passage.decay) * product);
  }

  /// The whole sequence.
  void all(const ChunkPlan& plan, const StateSlots<float>& dstate) const {
    const chunkwise::HeadState<Cell> slot(dstate, sequence, head);
    const Chunk* chunks = plan.of(sequence);
    const Index count = plan.count(sequence);
    bool last = !slot.present();
    if (slot.present()) {
      pack(s.dstate.c, slot.c, V);
      std::copy_n(slot.n, Q, s.dstate.n);
    }
    for (Index group = ceil_div(count, saved_group<Cell>) - 1; group >= 0; --group) {
      const Index first = group * saved_group<Cell>;
      const Index size = std::min(saved_group<Cell>, count - first);
      load_state(group);
      for (Index i = 0; i + 1 < size; ++i) advance(chunks[first + i], i);
      for (Index i = size - 1; i >= 0; --i) {
        chunk(chunks[first + i], s.states[i], last);
        last = chunks[first + i].fresh;
      }
    }
    if (!slot.present()) return;
    if (last) {
      std::fill_n(slot.c, Q * V, 0.0F);
      std::fill_n(slot.n, Q, 0.0F);
    } else {
      for (Index p = 0; p < s.dstate.c.count(); ++p) unpack_panel(s.dstate.c, p, slot.c, V);
      std::copy_n(s.dstate.n, Q, slot.n);
    }
    *slot.m = 0;
  }
};

/// As mlstm_backward.
template <class Cell, class Products, class Exec>
void all_heads(Exec& exec, Arena& arena, const Run& run, const MLSTMInput<const float, Cell>& in,
               MatrixView<const float, Cell::v_width> h, const MLSTMSaved<Cell>& saved,
               MatrixView<const float, Cell::v_width> dh, const MLSTMInput<float, Cell>& gradient,
               const StateSlots<float>& dstate) {
  const ArenaScope scope(arena);
  const ChunkPlan plan = plan_chunks(arena, run, saved.chunk_size);
  const Index heads = run.sequences * Cell::heads;
  const auto all_of = [&](Index task, Scratch<Cell, Products>& scratch, auto& inner) {
    const Index sequence = task / Cell::heads;
    using Shared = Head<Cell, Products, std::remove_reference_t<decltype(inner)>>;
    const Shared one{in, h, saved, dh, gradient, scratch, inner, sequence, task % Cell::heads, sequence * run.length};
    one.all(plan, dstate);
  };
  const bool by_head = heads % exec.size() == 0 || heads >= 2 * exec.size();
  const Index at_once = by_head ? exec.size() : 1;
  auto* scratch = arena.allocate<Scratch<Cell, Products>>(at_once);
  for (Index t = 0; t < at_once; ++t) {
    scratch[t] = {};
    scratch[t].allocate(arena, plan.longest, by_head ? 1 : exec.size());
  }
  if (by_head) {
    SerialExecutor serial;
    exec.parallel_for(heads, [&](Index task, int thread) { all_of(task, scratch[thread], serial); });
  } else {
    for (Index task = 0; task < heads; ++task) all_of(task, scratch[0], exec);
  }
}

}  // namespace xlstm::cpu::backward

namespace xlstm::cpu {

/// The gradients of the cell's input from dh, the gradient of h; `gradient` is written, not added to. `saved`: from
/// the forward pass of the same run. `dstate`: in, the gradients of the last states' C and n; out, of the first
/// states', its entries of m 0; null: zeros in and nothing out. The number of threads changes no bit of the result.
template <class Cell, class Precision = HighestPrecision, class Exec>
void mlstm_backward(Exec& exec, Arena& arena, const Run& run, const MLSTMInput<const float, Cell>& in,
                    MatrixView<const float, Cell::v_width> h, const MLSTMSaved<Cell>& saved,
                    MatrixView<const float, Cell::v_width> dh, const MLSTMInput<float, Cell>& gradient,
                    StateSlots<float> dstate) {
  static_assert(Executor<Exec>, "xlstm: the first argument runs tasks: an Executor such as cpu::ThreadPool");
  with_products<Cell, Precision>([&](auto products) {
    backward::all_heads<Cell, decltype(products)>(exec, arena, run, in, h, saved, dh, gradient, dstate);
  });
}

}  // namespace xlstm::cpu
