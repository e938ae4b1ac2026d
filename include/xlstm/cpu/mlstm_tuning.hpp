// SPDX-License-Identifier: Apache-2.0
// The numbers of the CPU's mLSTM that measurement decides (bench/mlstm_cell.cpp), apart from the kernels' text.
#pragma once

#include <algorithm>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cpu/amx.hpp"

namespace xlstm::cpu {

struct MLSTMTuning {
  /// Tokens in a chunk. A token costs 4QV operations for the state and L(Q+V) for its chunk, while a chunk loads and
  /// stores the state once: L grows with the state, and more so in training, where states are computed twice. Time of a
  /// forward pass (of forward and backward) in ms, B = 1, S = 2048, AVX-512, two threads, the best of five in turns:
  ///     H, Q, V         L = 16         32             64             128
  ///     8, 256, 512                    33.9 (146.8)   36.6 (140.3)   39.5 (142.7)
  ///     4, 128, 256     4.90 (23.2)    4.53 (19.5)    5.00 (19.8)    5.78 (22.0)
  ///     4, 32, 64       0.70 (2.86)    0.62 (2.35)    0.74 (2.73)    0.96 (3.30)
  static constexpr Index chunk_size(Index qk_dim, Index v_dim, Index length, bool training) {
    const Index large = 256 * 512 + (training ? 0 : 1);
    const Index best = amx(qk_dim, v_dim) ? 128 : qk_dim * v_dim >= large ? 64 : 32;
    return std::min(best, std::max<Index>(length, 1));
  }

  /// Chunks from one state that a training run keeps to the next; those between are computed again. On AMX, whose
  /// chunks are four times as long, keeping all took 120.5 ms (one thread 247.6) where every eighth took 128.9 (255.4):
  /// forward and backward of 8 heads of 256 × 512, S = 2048, the best of 32 (15) passes in turns on a busy machine,
  /// whose middle passes differ by more. It keeps 64 MB instead of 8 there.
  static constexpr Index saved_group(Index qk_dim, Index v_dim) { return amx(qk_dim, v_dim) ? 1 : 8; }

  /// Whether AMX, where the machine has it, makes a cell's products. Wall time of a forward pass (of forward and
  /// backward) in ms, 8 heads of 256 × 512, S = 2048, two threads, the best of 36 passes by vectors and of 42 and 12 by
  /// AMX, in turns, while neighbours left AMX between a quarter and three quarters of its peak:
  ///     vectors, L = 32     AMX, L = 128     256
  ///     48.8 (195.9)        43.2 (164.5)     47.0 (167.0)
  /// Of smaller heads the forward pass alone was measured: with 64 × 128 AMX gains less than a tenth, as packing and
  /// weighing take more than half.
  static constexpr bool amx([[maybe_unused]] Index qk_dim, [[maybe_unused]] Index v_dim) {
#if defined(XLSTM_SIMD_AMX)
    return qk_dim * v_dim >= 256 * 512;
#else
    return false;
#endif
  }
};

/// The chunk size of a run on the CPU: what the run says, else the tuning's; one chunk a document in the parallel form.
template <class Cell>
constexpr Index mlstm_chunk_size(const Run& run) {
  if (run.form == Form::parallel) return std::max<Index>(run.length, 1);
  if (run.chunk_size > 0) return std::min(run.chunk_size, std::max<Index>(run.length, 1));
  return MLSTMTuning::chunk_size(Cell::qk_dim, Cell::v_dim, run.length, run.training);
}

}  // namespace xlstm::cpu
