// SPDX-License-Identifier: Apache-2.0
// What the mLSTM's forward pass keeps for its backward pass: two numbers a token and head, and the state before every
// MLSTMTuning::saved_group-th chunk, in the panels in which both passes hold it. The states in between, the decay
// matrices and the scores are computed again.
#pragma once

#include <algorithm>

#include "xlstm/cell/chunks.hpp"
#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cpu/mlstm_tuning.hpp"
#include "xlstm/cpu/panels.hpp"

namespace xlstm::cpu {

/// Chunks from one kept state to the next. Backward holds the states between them for each thread.
template <class Cell>
inline constexpr Index saved_group = MLSTMTuning::saved_group(Cell::qk_dim, Cell::v_dim);

/// Views into the arena.
template <class Cell>
struct MLSTMSaved {
  Index chunk_size = 0;             ///< of the chunks that backward works in
  Index groups = 0;                 ///< states kept of each sequence
  float* inverse_denominator = {};  ///< 1/d, (rows, H), in the units of exp(−m_t)
  float* sum_factor = {};  ///< δs = sum_factor · (δh·h): −sign(s)/d, or 0 where |s| is not the maximum; (rows, H)
  float* c = {};   ///< C before the chunks 0, saved_group, …: (B, groups, H), panels (Q, V), zeros where they pad
  float* n = {};   ///< their n: (B, groups, H, Q)
  double* m = {};  ///< their m: (B, groups, H)

  float* c_of(Index sequence, Index group, Index head) const {
    return c + place(sequence, group, head) * Panels::size(Cell::qk_dim, Cell::v_dim);
  }
  float* n_of(Index sequence, Index group, Index head) const { return n + place(sequence, group, head) * Cell::qk_dim; }
  double& m_of(Index sequence, Index group, Index head) const { return m[place(sequence, group, head)]; }

 private:
  Index place(Index sequence, Index group, Index head) const {
    return (sequence * groups + group) * Cell::heads + head;
  }
};

/// The chunks of every sequence of a run, as arrays.
struct ChunkPlan {
  Chunk* chunks = nullptr;  ///< (B, most)
  Index* counts = nullptr;  ///< (B)
  Index most = 0;
  Index longest = 0;  ///< tokens of the longest chunk

  Index count(Index sequence) const { return counts[sequence]; }
  const Chunk* of(Index sequence) const { return chunks + sequence * most; }
};

inline ChunkPlan plan_chunks(Arena& arena, const Run& run, Index chunk_size) {
  ChunkPlan plan;
  plan.counts = arena.allocate<Index>(run.sequences);
  for (Index b = 0; b < run.sequences; ++b) {
    plan.counts[b] = Chunks(run, b, chunk_size).count();
    plan.most = std::max(plan.most, plan.counts[b]);
  }
  plan.chunks = arena.allocate<Chunk>(run.sequences * plan.most);
  for (Index b = 0; b < run.sequences; ++b) {
    Chunk* to = plan.chunks + b * plan.most;
    for (const Chunk& chunk : Chunks(run, b, chunk_size)) {
      *to++ = chunk;
      plan.longest = std::max(plan.longest, chunk.length);
    }
  }
  return plan;
}

/// Allocates what a training run keeps.
template <class Cell>
MLSTMSaved<Cell> allocate_saved(Arena& arena, const Run& run, Index chunk_size) {
  Index most = 0;
  for (Index b = 0; b < run.sequences; ++b) most = std::max(most, Chunks(run, b, chunk_size).count());
  MLSTMSaved<Cell> saved;
  saved.chunk_size = chunk_size;
  saved.groups = ceil_div(most, saved_group<Cell>);
  saved.inverse_denominator = arena.allocate<float>(run.rows() * Cell::heads);
  saved.sum_factor = arena.allocate<float>(run.rows() * Cell::heads);
  const Index states = run.sequences * saved.groups * Cell::heads;
  saved.c = arena.allocate<float>(states * Panels::size(Cell::qk_dim, Cell::v_dim));
  saved.n = arena.allocate<float>(states * Cell::qk_dim);
  saved.m = arena.allocate<double>(states);
  return saved;
}

}  // namespace xlstm::cpu
