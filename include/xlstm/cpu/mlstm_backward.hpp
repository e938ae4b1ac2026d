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
// States are held transposed (V, Q), so that every product has the panels that it needs: four products a chunk with the
// state's size, and one that computes the states between two kept ones again.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cpu/mlstm_chunkwise.hpp"
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
template <class Cell>
struct Scratch {
  static constexpr Index Q = Cell::qk_dim;
  static constexpr Index V = Cell::v_dim;

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
  float* scores = nullptr;           ///< P, panels (L, L)
  float* dscores = nullptr;          ///< δS/√Q, panels (L, L)
  float* keys = nullptr;             ///< k, panels (L, Q)
  float* queries = nullptr;          ///< q, panels (L, Q)
  float* weighted = nullptr;         ///< w_i/√Q q_i, or e_j k_j; panels (L, Q)
  float* keys_transposed = nullptr;  ///< panels (Q, L)
  float* values = nullptr;           ///< v, panels (L, V)
  float* values_transposed = nullptr;
  float* dn_rows = nullptr;  ///< δN, panels (L, V)
  TransposedState states[saved_group];
  TransposedState dstate;

  void allocate(Arena& arena, Index longest) {
    const auto floats = [&](Index count) { return arena.allocate<float>(count); };
    const auto doubles = [&](Index count) { return arena.allocate<double>(count); };
    scales = {doubles(longest), doubles(longest), doubles(longest)};
    for (double** sums : {&row_sum, &column_sum, &diagonal, &from_state, &to_state}) *sums = doubles(longest);
    partial = doubles(longest * std::max(ceil_div(longest, panel_width), ceil_div(Q, panel_width)));
    key_weight = floats(round_up(longest, panel_width));
    query_weight = floats(longest);
    ds = floats(longest);
    for (float** square : {&scores, &dscores}) *square = floats(Panels::size(longest, longest));
    for (float** rows : {&keys, &queries, &weighted}) *rows = floats(Panels::size(longest, Q));
    keys_transposed = floats(Panels::size(Q, longest));
    for (float** rows : {&values, &dn_rows}) *rows = floats(Panels::size(longest, V));
    values_transposed = floats(Panels::size(V, longest));
    for (TransposedState& s : states) s = {{floats(Panels::size(V, Q)), V, Q}, floats(Q), 0};
    dstate = {{floats(Panels::size(V, Q)), V, Q}, floats(Q), 0};
  }
};

/// One head of one sequence. `Inner` divides each product by panels, where there are too few heads for all threads.
template <class Cell, class Inner>
struct Head {
  static constexpr Index Q = Cell::qk_dim;
  static constexpr Index V = Cell::v_dim;

  const MLSTMInput<const float, Cell>& in;
  MatrixView<const float, Cell::v_width> h;
  const MLSTMSaved<Cell>& saved;
  MatrixView<const float, Cell::v_width> dh;
  const MLSTMInput<float, Cell>& gradient;
  Scratch<Cell>& s;
  Inner& inner;
  Index sequence;
  Index head;
  Index first_row;  ///< of the sequence

  Index row(const Chunk& chunk) const { return first_row + chunk.first; }
  const float* q(const Chunk& chunk) const { return in.q.row(row(chunk)) + head * Q; }
  const float* k(const Chunk& chunk) const { return in.k.row(row(chunk)) + head * Q; }
  const float* v(const Chunk& chunk) const { return in.v.row(row(chunk)) + head * V; }

  /// The kept state before a group's first chunk.
  void load_state(Index group) const {
    TransposedState& state = s.states[0];
    pack_transposed(state.c, saved.c_of(sequence, group, head), V);
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
    const double last = s.scales.maximum[chunk.length - 1];
    std::fill_n(s.key_weight, round_up(chunk.length, panel_width), 0.0F);
    for (Index t = 0; t < chunk.length; ++t) {
      s.key_weight[t] = static_cast<float>(std::exp(s.scales.c[t] - last));
      s.query_weight[t] =
          chunk.fresh ? 0.0F : static_cast<float>(std::exp(m - s.scales.maximum[t])) * query_scale<Cell>;
    }
    return {chunk.fresh ? 0.0F : static_cast<float>(std::exp(m - last)), after};
  }

  /// states[i + 1] from states[i].
  void advance(const Chunk& chunk, Index i) const {
    const TransposedState& from = s.states[i];
    TransposedState& to = s.states[i + 1];
    const Passage passage = weights(chunk, from.m);
    to.m = passage.m;
    const Panels values{s.values, chunk.length, V};
    const Panels keys{s.weighted, chunk.length, Q};
    pack(values, v(chunk), in.v.stride());
    pack(keys, k(chunk), in.k.stride(), [this](Index t) { return s.key_weight[t]; });
    accumulate(to.c, chunk.fresh ? nullptr : from.c.data, passage.decay, values, keys);
    accumulate(to.n, chunk.fresh ? nullptr : from.n, passage.decay, keys, [](Index) { return 1.0F; });
  }

  /// to = decay·from + rowsᵀ · columns; from null: zeros.
  void accumulate(const Panels& to, const float* from, float decay, const Panels& rows, const Panels& columns) const {
    inner.parallel_for(to.count(), [&](Index p, int) {
      for_each_tile(to.rows, [&](auto& tile, Index r) XLSTM_INLINE_LAMBDA {
        const Index at = (p * to.rows + r) * panel_width;
        if (from != nullptr)
          tile.load(from + at, panel_width, decay);
        else
          tile.clear();
        add_columns_product(tile, rows, r, columns.panel(p), 0, rows.rows);
        tile.store(to.data + at, panel_width);
      });
    });
  }

  /// to = decay·from + Σ_t factor(t) rows_t.
  template <class Factor>
  static void accumulate(float* to, const float* from, float decay, const Panels& rows, Factor factor) {
    for (Index c = 0; c < Q; ++c) to[c] = from != nullptr ? decay * from[c] : 0.0F;
    for (Index p = 0; p < rows.count(); ++p) {
      const Index width = std::min(panel_width, Q - p * panel_width);
      for (Index t = 0; t < rows.rows; ++t) {
        const float f = factor(t);
        const float* row_t = rows.panel(p) + t * panel_width;
        for (Index c = 0; c < width; ++c) to[p * panel_width + c] += f * row_t[c];
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
    const Panels keys{s.keys_transposed, Q, L};
    const Panels values{s.values_transposed, V, L};
    const Panels dN{s.dn_rows, L, V};
    const Panels queries{s.queries, L, Q};
    inner.parallel_for(P.count(), [&](Index p, int) {
      for_each_tile(L, [&](auto& tile, Index i) XLSTM_INLINE_LAMBDA {
        if (i + rows_of(tile) <= p * panel_width) return;
        tile.clear();
        add_rows_product(tile, queries, i, keys.panel(p));
        tile.store(P.panel(p) + i * panel_width, panel_width);
        tile.clear();
        add_rows_product(tile, dN, i, values.panel(p));
        tile.store(dS.panel(p) + i * panel_width, panel_width);
      });
      weigh_panel(P, dS, p);
    });
    add_partials(P.count(), L, s.row_sum);
  }

  /// Panel p of P and δS from products to what they are, and its part of the sums over G.
  void weigh_panel(const Panels& P, const Panels& dS, Index p) const {
    const Index first = p * panel_width;
    const Index width = std::min(panel_width, P.cols - first);
    std::fill_n(s.column_sum + first, width, 0.0);
    std::fill_n(s.partial + p * P.rows, P.rows, 0.0);
    for (Index i = first; i < P.rows; ++i) {
      float* score = P.panel(p) + i * panel_width;
      float* dscore = dS.panel(p) + i * panel_width;
      const Index count = std::min(i + 1 - first, width);
      float g[panel_width] = {};
      for (Index j = 0; j < count; ++j) {
        const float x = static_cast<float>(s.scales.c[first + j] - s.scales.maximum[i]);
        const float decay = query_scale<Cell> * simd::exp_of_negative(x);
        const float d = dscore[j] + s.ds[i];
        score[j] *= decay;
        dscore[j] = d * decay;
        g[j] = d * score[j];
      }
      std::fill(score + count, score + panel_width, 0.0F);
      std::fill(dscore + count, dscore + panel_width, 0.0F);
      if (i - first < width) {
        s.diagonal[i] = static_cast<double>(g[i - first]);
        g[i - first] = 0;
      }
      s.partial[p * P.rows + i] = static_cast<double>(simd::sum(g, panel_width));
      for (Index j = 0; j < width; ++j) s.column_sum[first + j] += static_cast<double>(g[j]);
    }
  }

  /// to_t = Σ_p partial(p, t), in the panels' order whoever computed them.
  void add_partials(Index panels, Index length, double* to) const {
    std::fill_n(to, length, 0.0);
    for (Index p = 0; p < panels; ++p)
      for (Index t = 0; t < length; ++t) to[t] += s.partial[p * length + t];
  }

  void query_gradient(const Chunk& chunk, const TransposedState& state) const {
    const Panels dS{s.dscores, chunk.length, chunk.length};
    const Panels dN{s.dn_rows, chunk.length, V};
    const Panels keys{s.keys, chunk.length, Q};
    const Panels queries{s.queries, chunk.length, Q};
    const MatrixView<float, Cell::qk_width>& to = gradient.q;
    inner.parallel_for(keys.count(), [&](Index p, int) {
      double* partial = s.partial + p * chunk.length;
      std::fill_n(partial, chunk.length, 0.0);
      for_each_tile(chunk.length, [&](auto& tile, Index i) XLSTM_INLINE_LAMBDA {
        tile.clear();
        if (!chunk.fresh) {
          add_rows_product(tile, dN, i, state.c.panel(p));
          tile.scale(s.query_weight + i);
          tile.add_row_dots(queries.panel(p) + i * panel_width, partial + i);
        }
        const Panels earlier{dS.data, dS.rows, std::min(i + rows_of(tile), chunk.length)};
        add_rows_product(tile, earlier, i, keys.panel(p));
        tile.store(to.row(row(chunk) + i) + head * Q + p * panel_width, to.stride(), Q - p * panel_width);
      });
    });
    add_partials(keys.count(), chunk.length, s.from_state);
    if (chunk.fresh) return;
    for (Index t = 0; t < chunk.length; ++t) {
      float* dq = to.row(row(chunk) + t) + head * Q;
      const float factor = s.query_weight[t] * s.ds[t];
      for (Index c = 0; c < Q; ++c) dq[c] += factor * state.n[c];
      s.from_state[t] += static_cast<double>(factor * simd::dot(state.n, q(chunk) + t * in.q.stride(), Q));
    }
  }

  /// `last`: nothing comes after the chunk, so that the gradient of the state after it is zero.
  void key_gradient(const Chunk& chunk, bool last) const {
    const Panels dS{s.dscores, chunk.length, chunk.length};
    const Panels values{s.values, chunk.length, V};
    const Panels queries{s.queries, chunk.length, Q};
    const Panels keys{s.keys, chunk.length, Q};
    const MatrixView<float, Cell::qk_width>& to = gradient.k;
    inner.parallel_for(queries.count(), [&](Index p, int) {
      double* partial = s.partial + p * chunk.length;
      std::fill_n(partial, chunk.length, 0.0);
      for_each_tile(chunk.length, [&](auto& tile, Index j) XLSTM_INLINE_LAMBDA {
        tile.clear();
        if (!last) {
          add_rows_product(tile, values, j, s.dstate.c.panel(p));
          tile.scale(s.key_weight + j);
          tile.add_row_dots(keys.panel(p) + j * panel_width, partial + j);
        }
        add_columns_product(tile, dS, j, queries.panel(p), j, chunk.length);
        tile.store(to.row(row(chunk) + j) + head * Q + p * panel_width, to.stride(), Q - p * panel_width);
      });
    });
    add_partials(queries.count(), chunk.length, s.to_state);
    if (last) return;
    for (Index t = 0; t < chunk.length; ++t) {
      float* dk = to.row(row(chunk) + t) + head * Q;
      for (Index c = 0; c < Q; ++c) dk[c] += s.key_weight[t] * s.dstate.n[c];
      s.to_state[t] += static_cast<double>(s.key_weight[t] * simd::dot(s.dstate.n, k(chunk) + t * in.k.stride(), Q));
    }
  }

  void value_gradient(const Chunk& chunk, bool last) const {
    const Panels P{s.scores, chunk.length, chunk.length};
    const Panels dN{s.dn_rows, chunk.length, V};
    const Panels keys{s.keys_transposed, Q, chunk.length};
    const MatrixView<float, Cell::v_width>& to = gradient.v;
    const Index blocks = ceil_div(V, panel_width);
    inner.parallel_for(P.count() * blocks, [&](Index task, int) {
      const Index p = task / blocks;
      const Index first = p * panel_width;
      const Index block = task % blocks * panel_width;
      for_each_tile(std::min(panel_width, V - block), [&](auto& tile, Index r) XLSTM_INLINE_LAMBDA {
        const Index c = block + r;
        tile.clear();
        if (!last) {
          add_rows_product(tile, s.dstate.c, c, keys.panel(p));
          tile.scale_columns(s.key_weight + first);
        }
        add_columns_product(tile, dN, c, P.panel(p), first, chunk.length);
        tile.store_transposed(to.row(row(chunk) + first) + head * V + c, to.stride(),
                              std::min(panel_width, chunk.length - first));
      });
    });
  }

  /// `through`: the part of the gradient of log f that goes from state to state.
  void gate_gradient(const Chunk& chunk, double through) const {
    double before = 0;  // Σ_{j<t} to_state_j
    for (Index t = 0; t < chunk.length; ++t) {
      const Index at = row(chunk) + t;
      const double igate = Cell::GateCap::apply(static_cast<double>(in.igate.row(at)[head]));
      const double di = s.to_state[t] + s.column_sum[t] + s.diagonal[t];
      gradient.igate.row(at)[head] =
          static_cast<float>(di * Cell::InputGate::derivative(igate) * Cell::GateCap::derivative(igate));
      before += std::exchange(s.to_state[t], before);
    }
    double pairs = 0;  // Σ_{j<t≤i} G_ij
    double later = 0;  // Σ_{i≥t} from_state_i
    for (Index t = chunk.length - 1; t >= 0; --t) {
      pairs += s.row_sum[t] - s.column_sum[t];
      later += s.from_state[t];
      const double df = (t > 0 ? pairs : 0.0) + later + s.to_state[t] + through;
      const double fgate = Cell::GateCap::apply(static_cast<double>(in.fgate.row(row(chunk) + t)[head]));
      gradient.fgate.row(row(chunk) + t)[head] =
          static_cast<float>(df * sigmoid(-fgate) * Cell::GateCap::derivative(fgate));
    }
  }

  double state_product(const TransposedState& state) const {
    return dot(s.dstate.c, state.c) + static_cast<double>(simd::dot(s.dstate.n, state.n, Q));
  }

  /// Gradients of one chunk, and δC, δn from those after it to those before it.
  void chunk(const Chunk& c, const TransposedState& state, bool last) const {
    const Passage passage = weights(c, state.m);
    pack(Panels{s.keys, c.length, Q}, k(c), in.k.stride());
    pack(Panels{s.queries, c.length, Q}, q(c), in.q.stride());
    pack(Panels{s.values, c.length, V}, v(c), in.v.stride());
    pack_transposed(Panels{s.keys_transposed, Q, c.length}, k(c), in.k.stride());
    pack_transposed(Panels{s.values_transposed, V, c.length}, v(c), in.v.stride());
    output_gradient(c);
    scores(c);
    query_gradient(c, state);
    key_gradient(c, last);
    value_gradient(c, last);
    gate_gradient(c, last || c.fresh ? 0.0 : static_cast<double>(passage.decay) * state_product(state));
    if (c.fresh) return;
    const Panels queries{s.weighted, c.length, Q};
    pack(queries, q(c), in.q.stride(), [this](Index t) { return s.query_weight[t]; });
    accumulate(s.dstate.c, last ? nullptr : s.dstate.c.data, passage.decay, Panels{s.dn_rows, c.length, V}, queries);
    accumulate(s.dstate.n, last ? nullptr : s.dstate.n, passage.decay, queries, [this](Index t) { return s.ds[t]; });
  }

  /// The whole sequence.
  void all(const ChunkPlan& plan, const StateSlots<float>& dstate) const {
    const chunkwise::HeadState<Cell> slot(dstate, sequence, head);
    const Chunk* chunks = plan.of(sequence);
    const Index count = plan.count(sequence);
    bool last = !slot.present();
    if (slot.present()) {
      pack_transposed(s.dstate.c, slot.c, V);
      std::copy_n(slot.n, Q, s.dstate.n);
    }
    for (Index group = ceil_div(count, saved_group) - 1; group >= 0; --group) {
      const Index first = group * saved_group;
      const Index size = std::min(saved_group, count - first);
      load_state(group);
      for (Index i = 0; i + 1 < size; ++i) advance(chunks[first + i], i);
      for (Index i = size - 1; i >= 0; --i) {
        chunk(chunks[first + i], s.states[i], last);
        last = chunks[first + i].fresh;
      }
    }
    if (!slot.present()) return;
    for (Index r = 0; r < Q; ++r)
      for (Index c = 0; c < V; ++c) slot.c[r * V + c] = last ? 0.0F : *s.dstate.c.at(c, r);
    for (Index r = 0; r < Q; ++r) slot.n[r] = last ? 0.0F : s.dstate.n[r];
    *slot.m = 0;
  }
};

}  // namespace xlstm::cpu::backward

namespace xlstm::cpu {

/// The gradients of the cell's input from dh, the gradient of h; `gradient` is written, not added to. `saved`: from
/// the forward pass of the same run. `dstate`: in, the gradients of the last states' C and n; out, of the first
/// states', its entries of m 0; null: zeros in and nothing out. The number of threads changes no bit of the result.
template <class Cell, class Exec>
void mlstm_backward(Exec& exec, Arena& arena, const Run& run, const MLSTMInput<const float, Cell>& in,
                    MatrixView<const float, Cell::v_width> h, const MLSTMSaved<Cell>& saved,
                    MatrixView<const float, Cell::v_width> dh, const MLSTMInput<float, Cell>& gradient,
                    StateSlots<float> dstate) {
  static_assert(Executor<Exec>, "xlstm: the first argument runs tasks: an Executor such as cpu::ThreadPool");
  const ArenaScope scope(arena);
  const ChunkPlan plan = plan_chunks(arena, run, saved.chunk_size);
  const Index heads = run.sequences * Cell::heads;
  const auto all_of = [&](Index task, backward::Scratch<Cell>& scratch, auto& inner) {
    const Index sequence = task / Cell::heads;
    using Head = backward::Head<Cell, std::remove_reference_t<decltype(inner)>>;
    const Head head{in, h, saved, dh, gradient, scratch, inner, sequence, task % Cell::heads, sequence * run.length};
    head.all(plan, dstate);
  };
  const bool by_head = heads % exec.size() == 0 || heads >= 2 * exec.size();
  const Index at_once = by_head ? exec.size() : 1;
  auto* scratch = arena.allocate<backward::Scratch<Cell>>(at_once);
  for (Index t = 0; t < at_once; ++t) {
    scratch[t] = {};
    scratch[t].allocate(arena, plan.longest);
  }
  if (by_head) {
    SerialExecutor serial;
    exec.parallel_for(heads, [&](Index task, int thread) { all_of(task, scratch[thread], serial); });
  } else {
    for (Index task = 0; task < heads; ++task) all_of(task, scratch[0], exec);
  }
}

}  // namespace xlstm::cpu
