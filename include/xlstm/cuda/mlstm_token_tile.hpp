// SPDX-License-Identifier: Apache-2.0
// The part of a chunkwise mLSTM's result (h, δq, δk or δv) that a block makes by itself: some tokens of a chunk, 16 of
// each warp, and some columns of a head's.
#pragma once

#include "xlstm/cuda/mlstm_gate_scan.hpp"
#include "xlstm/cuda/mma.hpp"

namespace xlstm::cuda {

/// D: the columns of a head's result.
template <int D, int Threads, int Columns>
struct MLSTMTokenTile {
  static constexpr int tokens = 16 * (Threads / warp_size);
  static constexpr int columns = D < Columns ? static_cast<int>(round_up(D, 16)) : Columns;
  static constexpr int column_tiles = columns / FragmentC::columns;
  static constexpr int blocks_of_columns = static_cast<int>(ceil_div(D, columns));
  static_assert(columns % 16 == 0, "xlstm: tiles of a chunk's results are multiples of 16");
  /// A thread's.
  using Sums = FragmentC[column_tiles];

  int sequence;
  int head;
  Index chunk;
  Index first;       ///< token
  int count;         ///< tokens; may be none
  int column_block;  ///< of blocks_of_columns
  int column;        ///< the first

  /// Blocks of a launch.
  template <class Cell, class S>
  static Index blocks(const MLSTMChunks<Cell, S>& chunks) {
    return chunks.sequences * Cell::heads * chunks.count * ceil_div(chunks.chunk_size, tokens) * blocks_of_columns;
  }
  template <class Cell, class S>
  XLSTM_DEVICE MLSTMTokenTile(const MLSTMChunks<Cell, S>& chunks, int block) {
    const int blocks_of_tokens = static_cast<int>((chunks.chunk_size + tokens - 1) / tokens);
    const int chunk_count = static_cast<int>(chunks.count);
    column_block = block % blocks_of_columns;
    column = column_block * columns;
    block /= blocks_of_columns;
    const int part = block % blocks_of_tokens;
    block /= blocks_of_tokens;
    chunk = block % chunk_count;
    head = block / chunk_count % static_cast<int>(Cell::heads);
    sequence = block / chunk_count / static_cast<int>(Cell::heads);
    first = chunk * chunks.chunk_size + Index{part} * tokens;
    const Index left = chunks.end_of(chunk) - first;
    count = static_cast<int>(left < tokens ? left : tokens);
  }

  /// The head's part of a token's row of q, k, v, h or their gradients.
  template <class Cell, class S, class T, Index Width>
  XLSTM_DEVICE T* row_in(const MLSTMChunks<Cell, S>& chunks, const MatrixView<T, Width>& all, Index token) const {
    return chunks.row_of(all, sequence, head, token);
  }
  /// Which of the block's tokens row i (0, 1) of a thread's sums is.
  template <class Thread>
  XLSTM_DEVICE static int row(Thread& thread, int i) {
    return thread.warp() * 16 + FragmentC::row(thread.lane(), 2 * i);
  }
  /// The column of element e of a thread's sums j, in the head's result.
  template <class Thread>
  XLSTM_DEVICE int column_of(Thread& thread, int j, int e) const {
    return column + j * FragmentC::columns + FragmentC::column(thread.lane(), e);
  }
  /// Row i of the sums, times a factor, to the head's part of a token's row.
  template <class Thread, class T>
  XLSTM_DEVICE void store_row(Thread& thread, const Sums& sums, int i, float factor, T* to) const {
    XLSTM_UNROLL
    for (int j = 0; j < column_tiles; ++j) {
      XLSTM_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int at = column_of(thread, j, e);
        if (at < D) to[at] = to_element<T>(factor * sums[j].values[2 * i + e]);
      }
    }
  }
};

}  // namespace xlstm::cuda
