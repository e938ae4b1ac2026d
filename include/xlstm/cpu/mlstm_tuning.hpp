// SPDX-License-Identifier: Apache-2.0
// The numbers of the CPU's mLSTM that measurement decides (bench/mlstm_cell.cpp), apart from the kernels' text.
#pragma once

#include <algorithm>

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/run.hpp"

namespace xlstm::cpu {

struct MLSTMTuning {
  /// Tokens in a chunk. A token costs 4QV operations for the state and about L(Q+V) for its chunk, while a chunk loads
  /// and stores the state once, so that L grows with the head and the curve is flat around the best.
  static constexpr Index chunk_size(Index qk_dim, Index v_dim, Index length) {
    const Index best = qk_dim * v_dim >= 128 * 128 ? 64 : 32;
    return std::min(best, std::max<Index>(length, 1));
  }
};

/// The chunk size of a run on the CPU: what the run says, else the tuning's; one chunk a document in the parallel form.
template <class Cell>
constexpr Index mlstm_chunk_size(const Run& run) {
  if (run.form == Form::parallel) return std::max<Index>(run.length, 1);
  if (run.chunk_size > 0) return std::min(run.chunk_size, std::max<Index>(run.length, 1));
  return MLSTMTuning::chunk_size(Cell::qk_dim, Cell::v_dim, run.length);
}

}  // namespace xlstm::cpu
