// SPDX-License-Identifier: Apache-2.0
// The states between chunks of the mLSTM, on a device (TFLA, arXiv 2503.14376, §2.2; the scan of cell/scan.hpp): with
// b, c, r, d of cuda/mlstm_gate_scan.hpp at the chunk's last token, and the sums over the tokens j of its last
// document,
//     M = max(m, r),   C ← exp(m − M) C + exp(r − M) Σ_j exp(c_j − r) k_j v_jᵀ,   m ← b + M,    n as C with v ≡ 1
// A block has a tile of a head's C in fp32 registers and walks through the chunks. The sum is made by itself, on the
// tensor cores, so that weights exp(c_j − r) reach 1 in every chunk: rounded to f16, smaller ones would be nothing.
// Rounded to T are k_j times its weight, and the states that the outputs read, which are of type S.
#pragma once

#include "xlstm/cuda/mlstm_state_tile.hpp"

namespace xlstm::cuda {

/// Width: how many elements of k and v are loaded at once.
template <class Cell, class T, class S, int Width, class Tuning = MLSTMChunkwiseTuning>
struct MLSTMChunkStatesKernel {
  MatrixView<const T, Cell::qk_width> k;
  MatrixView<const T, Cell::v_width> v;
  StateSlots<float> state;  ///< the first states in, the last ones out; or null: zeros in
  MLSTMChunks<Cell, S> chunks;
  bool stores_last = true;  ///< false: `state` is only read

  using Tile = MLSTMStateTile<Cell, T, Width, Tuning>;
  using Shared = typename Tile::Shared;
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_head = Tile::blocks_per_head;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Tile tile(thread.block_index().x);
    const bool has_m = tile.part == 0 && thread.index() == 0;
    float* whole = state ? state[tile.sequence] : nullptr;

    typename Tile::Values values;
    if (whole != nullptr) tile.load(thread, values, whole);
    float m = chunks.m[chunks.chunk(tile.sequence, tile.head, 0)];

    for (Index chunk = 0; chunk < chunks.count; ++chunk) {
      const Index at = chunks.chunk(tile.sequence, tile.head, chunk);
      tile.store(thread, values, chunks.c + at * Tile::Q * Tile::V, chunks.n + at * Tile::Q);
      if (has_m && chunk > 0) chunks.m[at] = m;

      const Index end = chunks.end_of(chunk);
      const int document = chunks.document_of(tile.sequence, end - 1);
      const float peak = chunks.peak[chunks.tokens(tile.sequence, tile.head) + end - 1];
      typename Tile::Values added;
      for (Index t = document >= 0 ? document : chunk * chunks.chunk_size; t < end; t += Tile::tokens) {
        const int count = static_cast<int>(end - t < Tile::tokens ? end - t : Tile::tokens);
        const float* source = chunks.source + chunks.tokens(tile.sequence, tile.head) + t;
        tile.stage(thread, chunks, k, v, t, count, [&](int token) { return exp(source[token] - peak); });
        tile.add_to_n(thread, added, Tile::tokens, [](int) { return 1.0F; });
        tile.add_to_c(thread, added);
      }

      // Not asked for before the sums: all of it would stay in registers meanwhile.
      const ChunkPassage passage = chunk_passage(chunks, tile.sequence, tile.head, chunk, m);
      const bool fresh = document >= 0;
      const float later = exp(passage.peak - passage.reference);
      tile.join(values, added, [&](float before, float sum) {
        return fresh ? later * sum : passage.decay * before + later * sum;  // what is forgotten may be no number
      });
      m = Cell::InputGate::stabilized ? passage.forget_sum + passage.reference : 0.0F;
    }

    if (whole == nullptr || !stores_last) return;
    tile.store(thread, values, whole);
    if (has_m) whole[Cell::m_offset + tile.head] = m;
  }
};

}  // namespace xlstm::cuda
