// SPDX-License-Identifier: Apache-2.0
// The backward pass of the chunkwise mLSTM on a device, what goes from chunk to chunk. With the names of
// cuda/mlstm_gate_scan.hpp and cpu/mlstm_backward.hpp, ρ_i the stabiliser of token i without b_i, M that of the chunk's
// last token, C, n, m the state before the chunk and d_i the denominator of h_i:
//     g_i = sign(s_i) δh_i·h_i where |s_i| > exp(−μ_i), else 0        W_i = exp(m − ρ_i) / (d_i √Q), 0 in later
//     documents δC ← exp(m − M) δC + Σ_i W_i q_i δh_iᵀ                           δn ← exp(m − M) δn − Σ_i W_i g_i q_i
// and what the last gate of the state's way, exp(m − M) (⟨δC, C⟩ + ⟨δn, n⟩), is in double.
// Rounded to S are W_i q_i and the δC that the other kernels read.
#pragma once

#include <type_traits>

#include "xlstm/cuda/mlstm_chunk_outputs.hpp"
#include "xlstm/cuda/mlstm_gate_scan.hpp"
#include "xlstm/cuda/tile_product.hpp"

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

/// M of a chunk, and what its tokens and the state before it weigh in the state after it.
struct ChunkPassage {
  int document;     ///< where the chunk's last document starts, −1 where it begins before the chunk
  float reference;  ///< M
  float decay;      ///< exp(m − M), 0 where a document starts
};
template <class Cell, class S>
XLSTM_HOST_DEVICE ChunkPassage chunk_passage(const MLSTMChunks<Cell, S>& chunks, int sequence, int head, Index chunk) {
  const Index last = chunks.end_of(chunk) - 1;
  const Index at = chunks.tokens(sequence, head) + last;
  ChunkPassage passage{chunks.document_of(sequence, last), 0.0F, 0.0F};
  const bool fresh = passage.document >= 0;
  const float m = fresh ? 0.0F : chunks.m[chunks.chunk(sequence, head, chunk)];
  passage.reference = chunk_reference<Cell>(m, chunks.peak[at], chunks.forget_sum[at]);
  if (!fresh) passage.decay = exp(m - passage.reference);
  return passage;
}

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

  static constexpr int Q = static_cast<int>(Cell::qk_dim);
  static constexpr int V = static_cast<int>(Cell::v_dim);
  static constexpr int threads = Tuning::state_threads;
  static constexpr int warps = threads / warp_size;
  static constexpr int needed_row_tiles = static_cast<int>(ceil_div(Q, 16 * warps));
  static constexpr int row_tiles =
      needed_row_tiles < Tuning::state_row_tiles ? needed_row_tiles : Tuning::state_row_tiles;
  static constexpr int rows = 16 * row_tiles * warps;
  static constexpr int columns = V < Tuning::state_columns ? static_cast<int>(round_up(V, 16)) : Tuning::state_columns;
  static constexpr int column_tiles = columns / FragmentC::columns;
  static constexpr int tokens = Tuning::state_tokens;
  static constexpr int blocks_of_rows = static_cast<int>(ceil_div(Q, rows));
  static constexpr int blocks_of_columns = static_cast<int>(ceil_div(V, columns));
  static constexpr int blocks_per_head = blocks_of_rows * blocks_of_columns;
  static_assert(tokens % 16 == 0 && columns % 16 == 0, "xlstm: tiles of the chunk states are multiples of 16");
  static_assert(Q % Width == 0 && V % Width == 0, "xlstm: a head's rows must be whole vectors");

  static constexpr int query_stride = tile_stride<S, rows>;
  static constexpr int gradient_stride = tile_stride<S, columns>;
  struct Queries : SharedArray<S, tokens * query_stride> {};
  struct OutputGradients : SharedArray<S, tokens * gradient_stride> {};
  using Shared = SharedLayout<Queries, OutputGradients, BlockReduceStorage<double>>;
  using Product = TileProduct<S>;
  using Sums = FragmentC[row_tiles][column_tiles];
  static constexpr int rows_of_n = static_cast<int>(ceil_div(rows, threads));  ///< a thread's

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int block = thread.block_index().x;
    const int head = block / blocks_per_head % static_cast<int>(Cell::heads);
    const int sequence = block / blocks_per_head / static_cast<int>(Cell::heads);
    const int part = block % blocks_per_head;
    const int first_row = part / blocks_of_columns * rows;
    const int first_column = part % blocks_of_columns * columns;
    const bool has_n = first_column == 0;
    float* whole = dstate ? dstate[sequence] : nullptr;

    Sums dc;
    float dn[rows_of_n] = {};
    if (whole != nullptr) {
      const float* from = whole + Index{head} * Q * V;
      for_each_entry(thread, dc, first_row, first_column, [&](Index at, float& x) { x = from[at]; });
      for_each_row(thread, dn, first_row, [&](int row, float& x) { x = whole[Cell::n_offset + head * Q + row]; });
    }
    for (Index chunk = chunks.count - 1; chunk >= 0; --chunk) {
      const Index at = chunks.chunk(sequence, head, chunk);
      S* const dc_after = gradients.dc + at * Q * V;
      for_each_entry(thread, dc, first_row, first_column,
                     [&](Index entry, float& x) { dc_after[entry] = to_element<S>(x); });
      if (has_n) for_each_row(thread, dn, first_row, [&](int row, float& x) { gradients.dn[at * Q + row] = x; });

      const ChunkPassage passage = chunk_passage(chunks, sequence, head, chunk);
      const bool fresh = passage.document >= 0;
      double product = 0;
      if (!fresh) {  // what is forgotten may be no number
        const S* c = chunks.c + at * Q * V;
        const float* n = chunks.n + at * Q;
        for_each_entry(thread, dc, first_row, first_column, [&](Index entry, float& x) {
          product += static_cast<double>(x) * static_cast<double>(to_float(c[entry]));
        });
        if (has_n) {
          for_each_row(thread, dn, first_row,
                       [&](int row, float& x) { product += static_cast<double>(x) * static_cast<double>(n[row]); });
        }
      }
      product = block_reduce(thread, product, Sum{});
      if (thread.index() == 0) {
        gradients.through[at * blocks_per_head + part] = fresh ? 0.0 : static_cast<double>(passage.decay) * product;
      }

      Sums added;
      float dn_added[rows_of_n] = {};
      const Index end = chunks.end_of(chunk);
      for (Index t = chunk * chunks.chunk_size; t < end && chunks.document_of(sequence, t) < 0; t += tokens) {
        const int count = static_cast<int>(end - t < tokens ? end - t : tokens);
        stage(thread, sequence, head, t, count, first_row, first_column);
        if (has_n) sum_queries(thread, chunks.tokens(sequence, head) + t, count, dn_added);
        add_products(thread, added);
      }
      XLSTM_UNROLL
      for (int i = 0; i < row_tiles; ++i) {
        XLSTM_UNROLL
        for (int j = 0; j < column_tiles; ++j) {
          XLSTM_UNROLL
          for (int e = 0; e < FragmentC::elements; ++e) {
            dc[i][j].values[e] = passage.decay * dc[i][j].values[e] + added[i][j].values[e];
          }
        }
      }
      XLSTM_UNROLL
      for (int i = 0; i < rows_of_n; ++i) dn[i] = passage.decay * dn[i] + dn_added[i];
    }

    if (whole == nullptr) return;
    float* to = whole + Index{head} * Q * V;
    for_each_entry(thread, dc, first_row, first_column, [&](Index at, float& x) { to[at] = x; });
    if (!has_n) return;
    for_each_row(thread, dn, first_row, [&](int row, float& x) { whole[Cell::n_offset + head * Q + row] = x; });
    if (first_row == 0 && thread.index() == 0) whole[Cell::m_offset + head] = 0.0F;
  }

 private:
  /// Calls `f(entry, value)` for the thread's entries of δC.
  template <class Thread, class F>
  XLSTM_DEVICE static void for_each_entry(Thread& thread, Sums& dc, int first_row, int first_column, F&& f) {
    XLSTM_UNROLL
    for (int i = 0; i < row_tiles; ++i) {
      XLSTM_UNROLL
      for (int j = 0; j < column_tiles; ++j) {
        XLSTM_UNROLL
        for (int e = 0; e < FragmentC::elements; ++e) {
          const int row = first_row + (thread.warp() * row_tiles + i) * 16 + FragmentC::row(thread.lane(), e);
          const int column = first_column + j * FragmentC::columns + FragmentC::column(thread.lane(), e);
          if (row < Q && column < V) f(Index{row} * V + column, dc[i][j].values[e]);
        }
      }
    }
  }
  /// Calls `f(row, value)` for the thread's entries of δn.
  template <class Thread, class F>
  XLSTM_DEVICE static void for_each_row(Thread& thread, float (&dn)[rows_of_n], int first_row, F&& f) {
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) {
      const int row = thread.index() + i * threads;
      if (row < rows && first_row + row < Q) f(first_row + row, dn[i]);
    }
  }

  /// Weighted queries and δh of `count` tokens from t on, between two barriers.
  template <class Thread>
  XLSTM_DEVICE void stage(Thread& thread, int sequence, int head, Index t, int count, int first_row,
                          int first_column) const {
    const Index row = sequence * chunks.length + t;
    const float* carried = gradients.carried + chunks.tokens(sequence, head) + t;
    thread.sync_block();
    stage_tile<S, tokens, rows, Width>(thread, thread.template shared<Queries>(), q.row(row) + head * Q + first_row,
                                       q.stride(), count, Q - first_row, [&](int token) { return carried[token]; });
    stage_tile<S, tokens, columns, Width>(thread, thread.template shared<OutputGradients>(),
                                          dh.row(row) + head * V + first_column, dh.stride(), count, V - first_column);
    thread.sync_block();
  }
  template <class Thread>
  XLSTM_DEVICE void sum_queries(Thread& thread, Index first, int count, float (&dn)[rows_of_n]) const {
    auto queries = thread.template shared<Queries>();
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) {
      const int row = thread.index() + i * threads;
      if (row >= rows) continue;
      for (int token = 0; token < count; ++token) {
        if (gradients.carried[first + token] == 0.0F) continue;  // another document's
        const S query = queries[token * query_stride + row];
        dn[i] -= gradients.through_sum[first + token] * to_float(query);
      }
    }
  }
  template <class Thread>
  XLSTM_DEVICE void add_products(Thread& thread, Sums& sums) const {
    auto queries = thread.template shared<Queries>();
    auto output_gradients = thread.template shared<OutputGradients>();
    for (int token = 0; token < tokens; token += 16) {
      XLSTM_UNROLL
      for (int i = 0; i < row_tiles; ++i) {
        const auto a = Product::load_transposed(
            thread, queries + (token * query_stride + (thread.warp() * row_tiles + i) * 16), query_stride);
        XLSTM_UNROLL
        for (int j = 0; j < column_tiles; ++j) {
          Product::add_rows(thread, sums[i][j], a,
                            output_gradients + (token * gradient_stride + j * FragmentC::columns), gradient_stride);
        }
      }
    }
  }
};

}  // namespace xlstm::cuda
