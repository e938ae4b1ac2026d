// SPDX-License-Identifier: Apache-2.0
// The recurrent mLSTM on the CPU (xLSTM 7B, arXiv 2503.13427, Eq. 3–11): also the decode step, which is one token of
// each of many sequences. The scalars of all tokens come first (gates, m, n and the denominators, which need no C);
// then C is swept once a token, in place: decay, rank-1 update and Cᵀq̂ in the same pass, since reading and writing C
// is all that a step costs. Columns of C are independent and are divided where there are fewer heads than threads.
#pragma once

#include <algorithm>
#include <cmath>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cpu/mlstm_chunkwise.hpp"
#include "xlstm/cpu/mlstm_saved.hpp"
#include "xlstm/cpu/mlstm_scales.hpp"
#include "xlstm/cpu/panels.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu::recurrent {

/// What a token does to C: C ← decay C + input k vᵀ, and h = Cᵀq̂ · inverse. A decay below 0 says: forget C.
struct TokenScales {
  float decay;
  float input;
  float inverse;
};

/// One head of one sequence, all tokens.
template <class Cell>
struct Head {
  static constexpr Index Q = Cell::qk_dim;
  static constexpr Index V = Cell::v_dim;

  const Run& run;
  const MLSTMInput<const float, Cell>& in;
  MatrixView<float, Cell::v_width> h;
  const MLSTMSaved<Cell>* saved;  ///< null unless training
  const ChunkPlan* plan;          ///< the chunks of `saved`
  Index sequence;
  Index head;

  /// The group of `saved` whose state is the one before token t, or −1. `chunk` counts the chunks begun.
  Index group_at(Index t, Index& chunk) const {
    if (saved == nullptr || chunk >= plan->count(sequence) || plan->of(sequence)[chunk].first != t) return -1;
    const Index begun = chunk++;
    return begun % saved_group<Cell> == 0 ? begun / saved_group<Cell> : -1;
  }

  /// m and n of every token, in place, and the scales with which C follows.
  void scalars(TokenScales* scales, float* n, float& m_in_place) const {
    double m = m_in_place;
    Index chunk = 0;
    for (Index t = 0; t < run.length; ++t) {
      const Index row = sequence * run.length + t;
      const bool fresh = run.starts_document(sequence, t);
      if (fresh) {
        std::fill_n(n, Q, 0.0F);
        m = 0;
      }
      if (const Index group = group_at(t, chunk); group >= 0) {
        std::copy_n(n, Q, saved->n_of(sequence, group, head));
        saved->m_of(sequence, group, head) = m;
      }
      const double log_f = log_forget<Cell>(in.fgate.row(row)[head]);
      const double log_i = log_input<Cell>(in.igate.row(row)[head]);
      const double next = Cell::InputGate::stabilized ? std::max(log_f + m, log_i) : 0;
      const float decay = static_cast<float>(std::exp(log_f + m - next));
      const float input = static_cast<float>(std::exp(log_i - next));
      m = next;
      const float* q = in.q.row(row) + head * Q;
      const float* k = in.k.row(row) + head * Q;
      for (Index i = 0; i < Q; ++i) n[i] = decay * n[i] + input * k[i];
      Denominator d;
      if constexpr (Cell::Normalizer::active) {
        d = denominator<Cell>(simd::dot(n, q, Q) * query_scale<Cell>, std::exp(-m));
      }
      if (saved != nullptr) {
        saved->inverse_denominator[row * Cell::heads + head] = d.inverse;
        saved->sum_factor[row * Cell::heads + head] = d.sum_factor;
      }
      scales[t] = {fresh ? -1.0F : decay, input, d.inverse};
    }
    m_in_place = static_cast<float>(m);
  }

  /// Columns [first, last) of C, all tokens.
  void columns(const TokenScales* scales, float* c, Index first, Index last) const {
    Index chunk = 0;
    for (Index t = 0; t < run.length; ++t) {
      const Index row = sequence * run.length + t;
      const Index group = group_at(t, chunk);
      TokenScales s = scales[t];
      if (s.decay < 0) {
        s.decay = 0;
        for (Index i = 0; i < Q; ++i) std::fill(c + i * V + first, c + i * V + last, 0.0F);
      }
      if (group >= 0) {
        const Panels kept{saved->c_of(sequence, group, head), Q, V};
        save(kept, c, first, last);
      }
      for (Index begin = first; begin < last; begin += block)
        sweep(s, row, c + begin, begin, std::min(block, last - begin));
    }
  }

 private:
  static constexpr Index block = 512;       ///< columns whose sums stay in the nearest cache
  static constexpr Index rows_at_once = 4;  ///< rows of C for each load and store of the sums

  /// Columns of C, as panels.
  static void save(const Panels& to, const float* c, Index first, Index last) {
    for (Index begin = first, end = 0; begin < last; begin = end) {
      end = std::min(last, round_up(begin + 1, panel_width));
      const Index padding = end == V ? round_up(V, panel_width) - V : 0;
      for (Index i = 0; i < Q; ++i) {
        float* const row = to.at(i, begin);
        std::copy(c + i * V + begin, c + i * V + end, row);
        std::fill_n(row + end - begin, padding, 0.0F);
      }
    }
  }

  void sweep(const TokenScales& s, Index row, float* c, Index begin, Index width) const {
    const float* q = in.q.row(row) + head * Q;
    const float* k = in.k.row(row) + head * Q;
    const float* v = in.v.row(row) + head * V + begin;
    float sums[block];
    std::fill_n(sums, width, 0.0F);
    constexpr Index whole = Q / rows_at_once * rows_at_once;
    for (Index i = 0; i < whole; i += rows_at_once)
      sweep_rows<rows_at_once>(s, q + i, k + i, v, c + i * V, sums, width);
    if constexpr (Q > whole) sweep_rows<Q - whole>(s, q + whole, k + whole, v, c + whole * V, sums, width);
    float* out = h.row(row) + head * V + begin;
    const float factor = s.inverse * query_scale<Cell>;
    for (Index x = 0; x < width; ++x) out[x] = sums[x] * factor;
  }

  template <Index Rows>
  static void sweep_rows(const TokenScales& s, const float* q, const float* k, const float* v, float* c, float* sums,
                         Index width) {
    simd::Floats query[Rows];
    simd::Floats key[Rows];
    for (Index r = 0; r < Rows; ++r) {
      query[r] = simd::broadcast(q[r]);
      key[r] = simd::broadcast(k[r] * s.input);
    }
    const simd::Floats decay = simd::broadcast(s.decay);
    Index x = 0;
    for (; x + simd::width <= width; x += simd::width) {
      const simd::Floats value = simd::load(v + x);
      simd::Floats total = simd::load(sums + x);
      for (Index r = 0; r < Rows; ++r) {
        const simd::Floats next = decay * simd::load(c + r * V + x) + key[r] * value;
        simd::store(c + r * V + x, next);
        total += query[r] * next;
      }
      simd::store(sums + x, total);
    }
    for (; x < width; ++x) {
      for (Index r = 0; r < Rows; ++r) {
        float& entry = c[r * V + x];
        entry = s.decay * entry + k[r] * s.input * v[x];
        sums[x] += q[r] * entry;
      }
    }
  }
};

/// Columns of a slice: a multiple of the vector, so that a column is computed alike in every division.
template <class Cell>
Index slice_width(Index heads, int threads) {
  const Index least = 4 * simd::width;
  const Index slices = heads % threads == 0 ? 1 : ceil_div(4 * threads, heads);
  return std::max(least, round_up(ceil_div(Cell::v_dim, slices), simd::width));
}

template <class Cell, class Exec>
void forward(Exec& exec, Arena& arena, const Run& run, const MLSTMInput<const float, Cell>& in, StateSlots<float> state,
             MatrixView<float, Cell::v_width> h, const MLSTMSaved<Cell>* saved) {
  const ArenaScope scope(arena);
  const Index heads = run.sequences * Cell::heads;
  ChunkPlan plan;
  if (saved != nullptr) plan = plan_chunks(arena, run, saved->chunk_size);
  TokenScales* scales = arena.allocate<TokenScales>(heads * run.length);
  if (!state) {
    float** slots = arena.allocate<float*>(run.sequences);
    for (Index b = 0; b < run.sequences; ++b) {
      slots[b] = arena.allocate<float>(Cell::state_size);
      std::fill_n(slots[b], Cell::state_size, 0.0F);
    }
    state = {slots, 0};
  }

  const auto head_of = [&](Index u) { return Head<Cell>{run, in, h, saved, &plan, u / Cell::heads, u % Cell::heads}; };
  const auto scalars = [&](Index u) {
    const chunkwise::HeadState<Cell> slot(state, u / Cell::heads, u % Cell::heads);
    head_of(u).scalars(scales + u * run.length, slot.n, *slot.m);
  };
  const auto columns = [&](Index u, Index first, Index last) {
    const chunkwise::HeadState<Cell> slot(state, u / Cell::heads, u % Cell::heads);
    head_of(u).columns(scales + u * run.length, slot.c, first, last);
  };

  const Index width = slice_width<Cell>(heads, exec.size());
  const Index slices = ceil_div(Cell::v_dim, width);
  if (slices == 1) {
    exec.parallel_for(heads, [&](Index u, int) {
      scalars(u);
      columns(u, 0, Cell::v_dim);
    });
    return;
  }
  exec.parallel_for(heads, [&](Index u, int) { scalars(u); });
  exec.parallel_for(heads * slices, [&](Index task, int) {
    const Index first = task % slices * width;
    columns(task / slices, first, std::min(first + width, Cell::v_dim));
  });
}

}  // namespace xlstm::cpu::recurrent
