// SPDX-License-Identifier: Apache-2.0
// The backward pass of the chunkwise mLSTM on a device, what goes from chunk to chunk. With the names of
// cuda/mlstm_gate_scan.hpp and cpu/mlstm_backward.hpp, ρ_i the stabiliser of token i without b_i, M that of the chunk's
// last token, C, n, m the state before the chunk and d_i the denominator of h_i:
//     g_i = sign(s_i) δh_i·h_i where |s_i| > exp(−μ_i), else 0
//     W_i = exp(m − ρ_i) / (d_i √Q), 0 in later documents
//     δC ← exp(m − M) δC + Σ_i W_i q_i δh_iᵀ            δn ← exp(m − M) δn − Σ_i W_i g_i q_i
// and what the last gate of the state's way, exp(m − M) (⟨δC, C⟩ + ⟨δn, n⟩), is in double.
// Rounded to S are W_i q_i and the δC that the other kernels read.
#pragma once

#include <type_traits>

#include "xlstm/cuda/mlstm_chunk_outputs.hpp"
#include "xlstm/cuda/mlstm_state_tile.hpp"

namespace xlstm::cuda {

/// What the backward kernels hand on to each other, in device memory, beside MLSTMChunks; the sums in double are those
/// that the forget gates' gradients are differences of (docs/gradients.md).
template <class Cell, class S>
struct MLSTMChunkGradients {
  float* reference;    ///< ρ, (B, H, length)
  float* scale;        ///< 1/(d √Q), (B, H, length)
  float* carried;      ///< W, (B, H, length)
  float* through_sum;  ///< g, (B, H, length)
  S* dc;               ///< (B, H, N, Q, V), the gradient of C after each chunk
  float* dn;           ///< (B, H, N, Q)
  double* through;     ///< exp(m − M) (⟨δC, C⟩ + ⟨δn, n⟩) in parts, (B, H, N, parts)
  double* row_sum;     ///< Σ_{j<i} G_ij, (B, H, length)
  double* column_sum;  ///< Σ_{i>j} G_ij, (B, H, length)
  double* diagonal;    ///< G_jj, (B, H, length)
  double* from_state;  ///< what f scales of the state's way to token i, in parts, (parts, B, H, length)
  double* to_state;    ///< what f scales of token j's way to the next state, in parts, (parts, B, H, length)
};

/// ρ, 1/(d √Q), W and g of every token. A warp has a token of a head.
template <class Cell, class T, class S>
struct MLSTMTokenGradientsKernel {
  MatrixView<const T, Cell::v_width> h;
  MatrixView<const T, Cell::v_width> dh;
  MLSTMDenominators denominators;
  MLSTMChunks<Cell, S> chunks;
  MLSTMChunkGradients<Cell, S> gradients;

  static constexpr int threads = 128;
  static constexpr int tokens = threads / warp_size;  ///< of a block

  static Index blocks(const MLSTMChunks<Cell, S>& chunks) {
    return ceil_div(chunks.sequences * Cell::heads * chunks.length, tokens);
  }

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    constexpr int V = static_cast<int>(Cell::v_dim);
    const Index at = Index{thread.block_index().x} * tokens + thread.warp();
    const Index of_head = at / chunks.length;
    const int sequence = static_cast<int>(of_head / Cell::heads);
    const int head = static_cast<int>(of_head % Cell::heads);
    if (sequence >= chunks.sequences) return;
    const Index t = at % chunks.length;

    float product = 0;
    if constexpr (Cell::denominator_gradient) {
      const Index row = sequence * chunks.length + t;
      for (int c = thread.lane(); c < V; c += warp_size) {
        product += to_float(dh.row(row)[head * V + c]) * to_float(h.row(row)[head * V + c]);
      }
      product = warp_reduce(thread, product, Sum{});
    }
    if (thread.lane() != 0) return;
    const bool carries = chunks.document_of(sequence, t) < 0;
    const float m = carries ? chunks.m[chunks.chunk(sequence, head, t / chunks.chunk_size)] : 0.0F;
    const float reference = chunk_reference<Cell>(m, chunks.peak[at], chunks.forget_sum[at]);
    const float scale = denominators.inverse[at] * rsqrt(static_cast<float>(Cell::qk_dim));
    const float sign = denominators.sum_sign[at];
    gradients.reference[at] = reference;
    gradients.scale[at] = scale;
    gradients.carried[at] = carries ? scale * exp(m - reference) : 0.0F;
    gradients.through_sum[at] = sign != 0.0F ? sign * product : 0.0F;
  }
};

/// A block has a tile of a head's δC in fp32 registers and walks through the chunks, from the last to the first.
/// Width: how many elements of q and δh are loaded at once.
template <class Cell, class T, class S, int Width, class Tuning = MLSTMChunkwiseTuning>
struct MLSTMBackwardStatesKernel {
  MatrixView<const T, Cell::qk_width> q;
  MatrixView<const T, Cell::v_width> dh;
  StateSlots<float> dstate;  ///< the last states' gradients in, the first ones' out; or null: zeros in
  MLSTMChunks<Cell, S> chunks;
  MLSTMChunkGradients<Cell, S> gradients;

  using Tile = MLSTMStateTile<Cell, S, Width, Tuning>;
  using Shared = SharedLayout<typename Tile::Shared, BlockReduceStorage<double>>;
  static constexpr int threads = Tile::threads;
  static constexpr int blocks_per_head = Tile::blocks_per_head;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Tile tile(thread.block_index().x);
    float* whole = dstate ? dstate[tile.sequence] : nullptr;

    typename Tile::Values values;
    if (whole != nullptr) tile.load(thread, values, whole);
    for (Index chunk = chunks.count - 1; chunk >= 0; --chunk) {
      const Index at = chunks.chunk(tile.sequence, tile.head, chunk);
      tile.store(thread, values, gradients.dc + at * Tile::Q * Tile::V, gradients.dn + at * Tile::Q);

      const ChunkPassage passage = chunk_passage(chunks, tile.sequence, tile.head, chunk, chunks.m[at]);
      const bool fresh = passage.document >= 0;
      double product = 0;
      if (!fresh) {  // what is forgotten may be no number
        const S* c = chunks.c + at * Tile::Q * Tile::V;
        const float* n = chunks.n + at * Tile::Q;
        tile.for_each_of_c(thread, values, [&](Index entry, float& x) {
          product += static_cast<double>(x) * static_cast<double>(to_float(c[entry]));
        });
        tile.for_each_of_n(thread, values,
                           [&](int row, float& x) { product += static_cast<double>(x) * static_cast<double>(n[row]); });
      }
      product = block_reduce(thread, product, Sum{});
      if (thread.index() == 0) {
        gradients.through[at * blocks_per_head + tile.part] =
            fresh ? 0.0 : static_cast<double>(passage.decay) * product;
      }

      typename Tile::Values added;
      const Index end = chunks.end_of(chunk);
      for (Index t = chunk * chunks.chunk_size; t < end && chunks.document_of(tile.sequence, t) < 0;
           t += Tile::tokens) {
        const int count = static_cast<int>(end - t < Tile::tokens ? end - t : Tile::tokens);
        const float* carried = gradients.carried + chunks.tokens(tile.sequence, tile.head) + t;
        const float* through_sum = gradients.through_sum + chunks.tokens(tile.sequence, tile.head) + t;
        tile.stage(thread, chunks, q, dh, t, count, [&](int token) { return carried[token]; });
        // Tokens of other documents carry nothing.
        tile.add_to_n(thread, added, count,
                      [&](int token) { return carried[token] != 0.0F ? -through_sum[token] : 0.0F; });
        tile.add_to_c(thread, added);
      }
      tile.join(values, added, [&](float after, float sum) { return passage.decay * after + sum; });
    }

    if (whole == nullptr) return;
    tile.store(thread, values, whole);
    if (tile.part == 0 && thread.index() == 0) whole[Cell::m_offset + tile.head] = 0.0F;
  }
};

}  // namespace xlstm::cuda
