// SPDX-License-Identifier: Apache-2.0
// What the mLSTM's forward pass keeps for its backward pass: two numbers a token and head, and the state before every
// saved_group-th chunk. The states in between, the decay matrices and the scores are computed again: a state costs
// more to write to memory and to read back than to compute, and 2048 tokens would keep 32 of them for each head.
#pragma once

#include <algorithm>

#include "xlstm/cell/chunks.hpp"
#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/run.hpp"

namespace xlstm::cpu {

/// Chunks between two kept states. Backward holds the states of so many chunks at a time for each thread.
inline constexpr Index saved_group = 8;

/// Views into the arena.
template <class Cell>
struct MLSTMSaved {
  Index chunk_size = 0;             ///< of the chunks that backward works in
  Index groups = 0;                 ///< states kept of each sequence
  float* inverse_denominator = {};  ///< 1/d, (rows, H), in the units of exp(−m_t)
  float* sum_factor = {};  ///< δs = sum_factor · (δh·h): −sign(s)/d, or 0 where |s| is not the maximum; (rows, H)
  float* states = {};      ///< C and n before the chunks 0, saved_group, …: (B, groups, Cell::m_offset)
  double* m = {};          ///< their m: (B, groups, H)

  float* c_of(Index sequence, Index group, Index head) const {
    return states + (sequence * groups + group) * Cell::m_offset + head * Cell::qk_dim * Cell::v_dim;
  }
  float* n_of(Index sequence, Index group, Index head) const {
    return states + (sequence * groups + group) * Cell::m_offset + Cell::n_offset + head * Cell::qk_dim;
  }
  double& m_of(Index sequence, Index group, Index head) const {
    return m[(sequence * groups + group) * Cell::heads + head];
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
  saved.groups = ceil_div(most, saved_group);
  saved.inverse_denominator = arena.allocate<float>(run.rows() * Cell::heads);
  saved.sum_factor = arena.allocate<float>(run.rows() * Cell::heads);
  saved.states = arena.allocate<float>(run.sequences * saved.groups * Cell::m_offset);
  saved.m = arena.allocate<double>(run.sequences * saved.groups * Cell::heads);
  return saved;
}

}  // namespace xlstm::cpu
