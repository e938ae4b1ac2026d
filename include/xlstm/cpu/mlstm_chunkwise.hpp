// SPDX-License-Identifier: Apache-2.0
// The chunkwise mLSTM forward on the CPU (TFLA, arXiv 2503.14376, §2.2), with the scales of mlstm_scales.hpp. A chunk:
//     P_ij = (q̂_i·k_j) exp(c_j − M_i)  for j ≤ i,      w_i = exp(m − M_i)
//     h_i  = (w_i Cᵀq̂_i + Σ_j P_ij v_j) / d_i,          s_i = w_i n·q̂_i + Σ_j P_ij
//     C    ← exp(m − M_L) C + Σ_j exp(c_j − M_L) k_j v_jᵀ,      n likewise
// The state is held as panels of columns; a panel's output and its update follow each other while it is in the nearest
// cache. Scores and the running n need no C, and the columns of C nothing of each other: so heads are computed
// independently, or, where there are too few of them, the chunks' scores in parallel and then slices of columns in
// parallel. Both do the same operations in the same order, so that the number of threads changes no bit, and neither
// does more work than one thread would, which a scan over chunks does.
#pragma once

#include <algorithm>
#include <cmath>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cpu/chunk_products.hpp"
#include "xlstm/cpu/mlstm_columns.hpp"
#include "xlstm/cpu/mlstm_saved.hpp"
#include "xlstm/cpu/mlstm_scales.hpp"
#include "xlstm/cpu/panels.hpp"

namespace xlstm::cpu::chunkwise {

/// What is computed of a chunk before its columns: scratch memory for chunks of up to `longest` tokens.
template <class Products>
struct ChunkScratch {
  using Element = typename Products::Element;

  ChunkScales scales;
  double* floor = nullptr;  ///< exp(−m_t)
  float* scores = nullptr;  ///< P_ij / d_i, rows of score_stride; zero for a tile's width right of the diagonal
  Index score_stride = 0;
  float* scaled_keys = nullptr;     ///< panels (L, Q): exp(c_j − M_L) k_j
  float* key_weight = nullptr;      ///< exp(c_j − M_L)
  float* query_weight = nullptr;    ///< exp(m − M_i)/√Q, then that over d_i
  float* n = nullptr;               ///< n before the chunk
  float decay = 0;                  ///< exp(m − M_L)
  Element* left_queries = nullptr;  ///< packed: q (L, Q), P (L, L), the transpose of scaled_keys (Q, L)
  Element* left_scores = nullptr;
  Element* left_keys = nullptr;
  Element* right_keys = nullptr;  ///< packed: some of k's rows as columns
};

template <class Cell, class Products>
ChunkScratch<Products> allocate_scratch(Arena& arena, Index longest) {
  constexpr Index Q = Cell::qk_dim;
  ChunkScratch<Products> s;
  s.scales = allocate_scales(arena, longest);
  s.floor = arena.allocate<double>(scale_count(longest));
  s.score_stride = round_up(longest, panel_width);
  s.scores = arena.allocate<float>(longest * s.score_stride);
  s.scaled_keys = arena.allocate<float>(Panels::size(longest, Q));
  s.key_weight = arena.allocate<float>(scale_count(longest));
  s.query_weight = arena.allocate<float>(scale_count(longest));
  s.n = arena.allocate<float>(Q);
  const auto packed = [&](Index count) { return arena.allocate<typename Products::Element>(count); };
  s.left_queries = packed(Products::left_size(longest, Q));
  s.left_scores = packed(Products::left_size(longest, longest));
  s.left_keys = packed(Products::left_size(Q, longest));
  s.right_keys = packed(Products::right_size(Q));
  return s;
}

/// One head's part of a sequence's state, or nothing.
template <class Cell>
struct HeadState {
  float* c = nullptr;
  float* n = nullptr;
  float* m = nullptr;

  HeadState(const StateSlots<float>& slots, Index sequence, Index head) {
    if (!slots) return;
    float* state = slots[sequence];
    c = state + head * Cell::qk_dim * Cell::v_dim;
    n = state + Cell::n_offset + head * Cell::qk_dim;
    m = state + Cell::m_offset + head;
  }
  bool present() const { return c != nullptr; }
};

/// What a thread needs for a panel of columns: v's and C's, packed.
template <class Products>
struct PanelScratch {
  typename Products::Element *right_values, *right_state;

  PanelScratch(Arena& arena, Index longest, Index qk_dim)
      : right_values(arena.allocate<typename Products::Element>(Products::right_size(longest))),
        right_state(arena.allocate<typename Products::Element>(Products::right_panel_size(qk_dim))) {}
};

/// One head of one sequence.
template <class Cell, class Products>
struct Head {
  static constexpr Index Q = Cell::qk_dim;
  static constexpr Index V = Cell::v_dim;

  const MLSTMInput<const float, Cell>& in;
  MatrixView<float, Cell::v_width> h;
  const MLSTMSaved<Cell>* saved;  ///< null unless training
  Index sequence;
  Index head;
  Index first_row;  ///< of the sequence

  /// Where C before chunk i of `count` is held: among what backward needs, or in `own`.
  float* c_before(Index i, Index count, float* own) const {
    if (saved == nullptr || i % saved_group<Cell> != 0 || i == count) return own;
    return saved->c_of(sequence, i / saved_group<Cell>, head);
  }
  /// C before the first of `count` chunks, from a slot, if there is one, else zeros for backward.
  void first_c(const HeadState<Cell>& slot, Index count, float* own) const {
    const Panels to{c_before(0, count, own), Q, V};  // by name: nvcc writes a braced argument wrongly
    if (slot.present()) {
      pack(to, slot.c, V);
    } else if (saved != nullptr) {
      std::fill_n(to.data, Panels::size(Q, V), 0.0F);
    }
  }
  void last_c(const HeadState<Cell>& slot, float* own, Index p) const {
    const Panels from{own, Q, V};
    unpack_panel(from, p, slot.c, V);
  }

  const float* q(const Chunk& chunk) const { return in.q.row(first_row + chunk.first) + head * Q; }
  const float* k(const Chunk& chunk) const { return in.k.row(first_row + chunk.first) + head * Q; }
  const float* v(const Chunk& chunk) const { return in.v.row(first_row + chunk.first) + head * V; }

  /// Scales and weights; `empty`: C and n are zero. Returns m after the chunk.
  double weights(ChunkScratch<Products>& s, const Chunk& chunk, double m, bool empty) const {
    const double after = chunk_scales(in, first_row + chunk.first, chunk.length, head, m, s.scales);
    key_weights(s.scales, chunk.length, s.key_weight);
    if (empty) {
      std::fill_n(s.query_weight, chunk.length, 0.0F);
      s.decay = 0;
    } else {
      query_weights<Cell>(s.scales, chunk.length, m, s.query_weight);
      s.decay = static_cast<float>(std::exp(m - s.scales.maximum[chunk.length - 1]));
    }
    return after;
  }

  /// n ← decay n + Σ_j key_weight_j k_j.
  void advance_n(const ChunkScratch<Products>& s, const Chunk& chunk, float* n) const {
    const float* key = k(chunk);
    for (Index i = 0; i < Q; ++i) n[i] = s.decay == 0.0F ? 0.0F : n[i] * s.decay;
    for (Index t = 0; t < chunk.length; ++t, key += in.k.stride())
      for (Index i = 0; i < Q; ++i) n[i] += s.key_weight[t] * key[i];
  }

  /// Left operands as tiles take them.
  static LeftOperand pack_left(const LeftOperand& from, Index rows, Index depth, Part part,
                               typename Products::Element* memory) {
    for (Index p = 0; p < ceil_div(rows, panel_width); ++p) Products::pack_left(from, rows, depth, p, part, memory);
    return from;
  }
  LeftOperand queries(const Chunk& chunk) const { return LeftOperand::rows_of(q(chunk), in.q.stride()); }
  static LeftOperand earlier(const ChunkScratch<Products>& s) { return LeftOperand::rows_of(s.scores, s.score_stride); }
  static LeftOperand keys(const ChunkScratch<Products>& s, Index length) {
    const Panels keys{s.scaled_keys, length, Q};  // by name: nvcc writes a braced argument wrongly
    return LeftOperand::columns_of(keys);
  }

  /// Row i of P from that of the products, with zeros to a tile's width right of the diagonal; returns its sum.
  static float weigh(const ChunkScratch<Products>& s, Index i, float* row) {
    const double maximum = s.scales.maximum[i];
    simd::Floats sum{};
    Index j = 0;
    for (; j <= i; j += simd::width) {
      const simd::Floats decay = simd::exp_of_negative(simd::differences(s.scales.c + j, maximum));
      const simd::Floats p = simd::first_of(simd::load(row + j) * (query_scale<Cell> * decay), i + 1 - j);
      simd::store(row + j, p);
      sum += p;
    }
    for (; j < std::min(round_up(i + 1, Products::triangle_rows), s.score_stride); ++j) row[j] = 0.0F;
    return simd::reduce_add(sum);
  }

  /// Scores, denominators and scaled keys, from the weights and from n before the chunk.
  void scores(ChunkScratch<Products>& s, const Chunk& chunk, const float* n, bool empty) const {
    [[maybe_unused]] const typename Products::Session session;
    const Index L = chunk.length;
    const auto left = Products::left(pack_left(queries(chunk), L, Q, Part::all, s.left_queries), Q, s.left_queries);
    for (Index p = 0; p < ceil_div(L, panel_width); ++p) {
      const Index first = p * panel_width;
      const auto* right =
          Products::right_of_columns(k(chunk) + first * in.k.stride(), in.k.stride(), Q, L - first, s.right_keys);
      Products::for_each_tile(first, L, nullptr, [&](auto& tile, Index i) XLSTM_INLINE_LAMBDA {
        tile.clear();
        tile.add(left, i, right, Q);
        tile.store(s.scores + i * s.score_stride + first, s.score_stride);
      });
    }
    if constexpr (Cell::Normalizer::active) denominator_floors(s.scales, L, s.floor);
    for (Index i = 0; i < L; ++i) {
      float* const row = s.scores + i * s.score_stride;
      float signed_sum = weigh(s, i, row);
      Denominator d;
      if constexpr (Cell::Normalizer::active) {
        if (!empty) signed_sum += s.query_weight[i] * simd::dot(q(chunk) + i * in.q.stride(), n, Q);
        d = denominator<Cell>(signed_sum, s.floor[i]);
        const simd::Floats inverse = simd::broadcast(d.inverse);
        for (Index j = 0; j <= i; j += simd::width) simd::store(row + j, simd::load(row + j) * inverse);
      }
      s.query_weight[i] *= d.inverse;
      if (saved != nullptr) {
        const Index at = (first_row + chunk.first + i) * Cell::heads + head;
        saved->inverse_denominator[at] = d.inverse;
        saved->sum_factor[at] = d.sum_factor;
      }
    }
    pack(Panels{s.scaled_keys, L, Q}, k(chunk), in.k.stride(), [&s](Index t) { return s.key_weight[t]; });
    pack_left(earlier(s), L, L, Part::lower, s.left_scores);
    pack_left(keys(s, L), Q, L, Part::all, s.left_keys);
  }

  /// Keeps n and m before chunk i for backward, where it keeps any.
  void save_scalars(const float* n, double m, Index i, bool empty) const {
    if (saved == nullptr || i % saved_group<Cell> != 0) return;
    float* to = saved->n_of(sequence, i / saved_group<Cell>, head);
    if (empty)
      std::fill_n(to, Q, 0.0F);
    else
      std::copy_n(n, Q, to);
    saved->m_of(sequence, i / saved_group<Cell>, head) = m;
  }

  /// Output and state update of panel p of the columns. `before`: C, or null for zeros; `after`: where it goes, or
  /// null.
  void column_panel(const ChunkScratch<Products>& s, const Chunk& chunk, Index p, const float* before, float* after,
                    const PanelScratch<Products>& memory) const {
    [[maybe_unused]] const typename Products::Session session;
    const Index L = chunk.length;
    const Index first = p * panel_width;
    const Index width = std::min(panel_width, V - first);
    const Index at = p * Panels::size(Q, panel_width);
    ColumnStep<Products, Part::lower, Q> step;
    step.rows = Products::left(queries(chunk), Q, s.left_queries);
    step.weight = s.query_weight;
    step.pairs = Products::left(earlier(s), L, s.left_scores);
    step.updates = Products::left(keys(s, L), L, s.left_keys);
    step.decay = s.decay;
    step.length = L;
    const auto* values = Products::right_of_rows(v(chunk) + first, in.v.stride(), L, width, memory.right_values);
    const float* const state = before != nullptr ? before + at : nullptr;
    float* const out = h.row(first_row + chunk.first) + head * V + first;
    step.output(state, values, memory.right_state, out, h.stride(), width);
    if (after != nullptr) step.update(state, values, after + at);
  }
};

/// Heads as independent tasks.
template <class Cell, class Products, class Exec>
void by_head(Exec& exec, Arena& arena, const Run& run, const ChunkPlan& plan, const MLSTMInput<const float, Cell>& in,
             StateSlots<float> state, MatrixView<float, Cell::v_width> h, const MLSTMSaved<Cell>* saved) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  struct Thread {
    ChunkScratch<Products> chunk;
    float* c;
    PanelScratch<Products> panel;
  };
  Thread* threads = arena.allocate<Thread>(exec.size());
  for (int t = 0; t < exec.size(); ++t) {
    threads[t] = {allocate_scratch<Cell, Products>(arena, plan.longest), arena.allocate<float>(Panels::size(Q, V)),
                  PanelScratch<Products>(arena, plan.longest, Q)};
  }

  exec.parallel_for(run.sequences * Cell::heads, [&](Index task, int thread) {
    const Index sequence = task / Cell::heads;
    const Index head = task % Cell::heads;
    const Head<Cell, Products> one{in, h, saved, sequence, head, sequence * run.length};
    ChunkScratch<Products>& scratch = threads[thread].chunk;
    float* const own = threads[thread].c;
    const Chunk* chunks = plan.of(sequence);
    const Index count = plan.count(sequence);
    HeadState<Cell> slot(state, sequence, head);
    bool empty = !slot.present();
    double m = 0;
    one.first_c(slot, count, own);
    if (!empty) {
      std::copy_n(slot.n, Q, scratch.n);
      m = *slot.m;
    }
    for (Index i = 0; i < count; ++i) {
      const Chunk& chunk = chunks[i];
      if (chunk.fresh) empty = true, m = 0;
      one.save_scalars(scratch.n, m, i, empty);
      m = one.weights(scratch, chunk, m, empty);
      one.scores(scratch, chunk, scratch.n, empty);
      one.advance_n(scratch, chunk, scratch.n);
      const bool keep = i + 1 < count ? !chunks[i + 1].fresh : slot.present();
      const float* const before = empty ? nullptr : one.c_before(i, count, own);
      float* const after = keep ? one.c_before(i + 1, count, own) : nullptr;
      for (Index p = 0; p < ceil_div(V, panel_width); ++p)
        one.column_panel(scratch, chunk, p, before, after, threads[thread].panel);
      empty = false;
    }
    if (slot.present()) {
      for (Index p = 0; p < ceil_div(V, panel_width); ++p) one.last_c(slot, own, p);
      std::copy_n(scratch.n, Q, slot.n);
      *slot.m = static_cast<float>(m);
    }
  });
}

/// Chunks held at a time of each head where heads are divided.
inline constexpr Index divided_group = 16;

/// Each head divided: groups of chunks, of which the scores are independent tasks, then the panels of C's columns are.
template <class Cell, class Products, class Exec>
void by_column(Exec& exec, Arena& arena, const Run& run, const ChunkPlan& plan, const MLSTMInput<const float, Cell>& in,
               StateSlots<float> state, MatrixView<float, Cell::v_width> h, const MLSTMSaved<Cell>* saved) {
  constexpr Index Q = Cell::qk_dim;
  constexpr Index V = Cell::v_dim;
  const Index heads = run.sequences * Cell::heads;
  const Index group = std::min(divided_group, plan.most);
  const Index panels = Panels{nullptr, Q, V}.count();
  struct Running {
    float* c;
    float* n;
    double m;
    bool empty;  ///< before the group
  };
  Running* running = arena.allocate<Running>(heads);
  auto* scratch = arena.allocate<ChunkScratch<Products>>(heads * group);
  for (Index u = 0; u < heads; ++u) {
    running[u] = {arena.allocate<float>(Panels::size(Q, V)), arena.allocate<float>(Q), 0, true};
    for (Index i = 0; i < group; ++i) scratch[u * group + i] = allocate_scratch<Cell, Products>(arena, plan.longest);
  }
  auto* panel = arena.allocate<PanelScratch<Products>>(exec.size());
  for (int t = 0; t < exec.size(); ++t) panel[t] = PanelScratch<Products>(arena, plan.longest, Q);

  const auto head_of = [&](Index u) {
    const Index sequence = u / Cell::heads;
    return Head<Cell, Products>{in, h, saved, sequence, u % Cell::heads, sequence * run.length};
  };
  exec.parallel_for(heads, [&](Index u, int) {
    const Head<Cell, Products> one = head_of(u);
    const HeadState<Cell> slot(state, one.sequence, one.head);
    one.first_c(slot, plan.count(one.sequence), running[u].c);
    if (!slot.present()) return;
    std::copy_n(slot.n, Q, running[u].n);
    running[u].m = *slot.m;
    running[u].empty = false;
  });

  for (Index begin = 0; begin < plan.most; begin += group) {
    const auto size_of = [&](Index sequence) { return std::min(group, plan.count(sequence) - begin); };
    exec.parallel_for(heads, [&](Index u, int) {
      const Head<Cell, Products> one = head_of(u);
      Running& r = running[u];
      bool empty = r.empty;
      for (Index i = 0; i < size_of(one.sequence); ++i) {
        const Chunk& chunk = plan.of(one.sequence)[begin + i];
        ChunkScratch<Products>& s = scratch[u * group + i];
        if (chunk.fresh) empty = true, r.m = 0;
        if (!empty) std::copy_n(r.n, Q, s.n);
        one.save_scalars(r.n, r.m, begin + i, empty);
        r.m = one.weights(s, chunk, r.m, empty);
        one.advance_n(s, chunk, r.n);
        empty = false;
      }
    });
    const auto empty_at = [&](Index u, Index i) {
      return plan.of(u / Cell::heads)[begin + i].fresh || (i == 0 && running[u].empty);
    };
    exec.parallel_for(heads * group, [&](Index task, int) {
      const Index u = task / group;
      const Index i = task % group;
      const Head<Cell, Products> one = head_of(u);
      if (i >= size_of(one.sequence)) return;
      one.scores(scratch[task], plan.of(one.sequence)[begin + i], scratch[task].n, empty_at(u, i));
    });
    exec.parallel_for(heads * panels, [&](Index task, int thread) {
      const Index u = task / panels;
      const Index p = task % panels;
      const Head<Cell, Products> one = head_of(u);
      const Chunk* chunks = plan.of(one.sequence);
      const Index count = plan.count(one.sequence);
      for (Index i = 0; i < size_of(one.sequence); ++i) {
        const Index next = begin + i + 1;
        const bool keep = next < count ? !chunks[next].fresh : bool(state);
        const float* const before = empty_at(u, i) ? nullptr : one.c_before(begin + i, count, running[u].c);
        float* const after = keep ? one.c_before(next, count, running[u].c) : nullptr;
        one.column_panel(scratch[u * group + i], chunks[begin + i], p, before, after, panel[thread]);
      }
      if (state && size_of(one.sequence) > 0 && begin + group >= count)
        one.last_c(HeadState<Cell>(state, one.sequence, one.head), running[u].c, p);
    });
    for (Index u = 0; u < heads; ++u) running[u].empty = false;
  }
  if (!state) return;
  for (Index u = 0; u < heads; ++u) {
    const HeadState<Cell> slot(state, u / Cell::heads, u % Cell::heads);
    std::copy_n(running[u].n, Q, slot.n);
    *slot.m = static_cast<float>(running[u].m);
  }
}

/// Forward in chunks of `chunk_size` tokens.
template <class Cell, class Products, class Exec>
void forward(Exec& exec, Arena& arena, const Run& run, Index chunk_size, const MLSTMInput<const float, Cell>& in,
             StateSlots<float> state, MatrixView<float, Cell::v_width> h, const MLSTMSaved<Cell>* saved) {
  const ArenaScope scope(arena);
  const ChunkPlan plan = plan_chunks(arena, run, chunk_size);
  const Index heads = run.sequences * Cell::heads;
  // Whole heads keep everything of a head in one core's cache; they are divided where that leaves cores idle.
  if (heads % exec.size() == 0 || heads >= 4 * exec.size())
    by_head<Cell, Products>(exec, arena, run, plan, in, state, h, saved);
  else
    by_column<Cell, Products>(exec, arena, run, plan, in, state, h, saved);
}

}  // namespace xlstm::cpu::chunkwise
