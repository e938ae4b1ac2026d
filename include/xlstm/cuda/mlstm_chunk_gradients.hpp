// SPDX-License-Identifier: Apache-2.0
// δq, δk and δv of the chunkwise mLSTM on a device, and the terms of its gates' gradients. With the names of
// cuda/mlstm_backward_states.hpp, over the tokens j ≤ i of one document and chunk, e_j = exp(c_j − M) or 0 before the
// chunk's last document, C, n before the chunk and δC, δn after it:
//     a_ij = exp(c_j − ρ_i) / (d_i √Q),   P_ij = a_ij q_i·k_j,   δS_ij = a_ij (δh_i·v_j − g_i),   G_ij = δS_ij q_i·k_j
//     δq_i = W_i (C δh_i − g_i n) + Σ_j δS_ij k_j        what f scales: q_i times the first term, Σ_{j<i} G_ij
//     δk_j = e_j (δC v_j + δn)    + Σ_i δS_ij q_i        k_j times the first term, Σ_{i>j} G_ij, and apart G_jj
//     δv_j = e_j δCᵀ k_j          + Σ_i P_ij δh_i
// The denominator is in a, not in δN = δh / d, so that q, k, v and δh are multiplied as they are. These are three
// kernels of one text: a block has some tokens of a chunk, which the rows of its tiles are, and some columns of their
// gradient; it goes through the other tokens. Rounded to S are P and δS.
#pragma once

#include "xlstm/cuda/mlstm_backward_states.hpp"
#include "xlstm/cuda/mlstm_token_tile.hpp"
#include "xlstm/cuda/tile_product.hpp"

namespace xlstm::cuda {

/// What a kernel makes the gradient of.
enum class GradientOf { query, key, value };

/// Width: how many elements of q, k, v and δh are loaded at once.
template <class Cell, class T, class S, GradientOf of, int Width, class Tuning = MLSTMChunkwiseTuning>
struct MLSTMChunkGradientsKernel {
  static constexpr bool of_query = of == GradientOf::query;
  static constexpr bool of_key = of == GradientOf::key;
  static constexpr bool of_value = of == GradientOf::value;
  static constexpr Index gradient_width = of_value ? Cell::v_width : Cell::qk_width;

  MatrixView<const T, Cell::qk_width> q;
  MatrixView<const T, Cell::qk_width> k;
  MatrixView<const T, Cell::v_width> v;
  MatrixView<const T, Cell::v_width> dh;
  MatrixView<T, gradient_width> gradient;
  MLSTMChunks<Cell, S> chunks;
  MLSTMChunkGradients<Cell, S> sums_of;

  static constexpr int Q = static_cast<int>(Cell::qk_dim);
  static constexpr int V = static_cast<int>(Cell::v_dim);
  static constexpr int D = of_value ? V : Q;            ///< of the gradient
  static constexpr int state_depth = of_value ? Q : V;  ///< of the product with the state
  static constexpr int threads = Tuning::gradient_threads;
  static constexpr int others = Tuning::gradient_others;
  static constexpr int longest = Q > V ? Q : V;
  static constexpr int depth =
      longest < Tuning::gradient_depth ? static_cast<int>(round_up(longest, 16)) : Tuning::gradient_depth;
  // f16, which is multiplied as fp32, would spill registers with as many as the others.
  static constexpr int most_columns = sizeof(T) < sizeof(S) && Tuning::gradient_columns % 32 == 0
                                          ? Tuning::gradient_columns / 2  //
                                          : Tuning::gradient_columns;
  using Tile = MLSTMTokenTile<D, threads, most_columns>;
  using Sums = typename Tile::Sums;
  static constexpr int tokens = Tile::tokens;
  static constexpr int columns = Tile::columns;
  static constexpr int blocks_of_columns = Tile::blocks_of_columns;
  static constexpr int other_tiles = others / FragmentC::columns;
  static constexpr int state_width = V % vector_width<S> == 0 ? vector_width<S> : 1;
  static_assert(others % 16 == 0 && depth % 16 == 0, "xlstm: tiles of the chunk gradients are multiples of 16");
  static_assert(Q % Width == 0 && V % Width == 0, "xlstm: a head's rows must be whole vectors");

  static constexpr int depth_stride = tile_stride<S, depth>;
  static constexpr int factor_stride = tile_stride<S, columns>;
  static constexpr int state_rows = of_value ? depth : columns;
  static constexpr int state_columns = of_value ? columns : depth;
  static constexpr int state_stride = tile_stride<S, state_columns>;
  struct StateRows : SharedArray<S, tokens * depth_stride> {};
  struct State : SharedArray<S, state_rows * state_stride> {};
  struct Rows : SharedArray<S, tokens * depth_stride> {};
  struct Others : SharedArray<S, others * depth_stride> {};
  struct Factors : SharedArray<S, others * factor_stride> {};
  using Shared = SharedLayout<SharedOverlay<SharedLayout<StateRows, State>, SharedLayout<Rows, Others, Factors>>>;
  using Product = TileProduct<S>;

  /// Blocks of a launch.
  static Index blocks(const MLSTMChunks<Cell, S>& chunks) { return Tile::blocks(chunks); }

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Tile at(chunks, thread.block_index().x);
    if (at.count <= 0) return;
    const ChunkPassage passage =
        chunk_passage(chunks, at.sequence, at.head, at.chunk, chunks.m[chunks.chunk(at.sequence, at.head, at.chunk)]);

    Row rows[2];
    XLSTM_UNROLL
    for (int i = 0; i < 2; ++i) rows[i] = row_of(at, passage, Tile::row(thread, i));
    Sums sums;
    const bool state_reaches = of_query ? chunks.document_of(at.sequence, at.first) < 0
                                        : at.first + at.count > static_cast<Index>(passage.document);
    double of_state[2] = {0, 0};
    if (state_reaches) add_state(thread, at, rows, sums, of_state);
    if constexpr (!of_value) {
      const Index parts = at.column_block * chunks.sequences * Cell::heads * chunks.length;
      store_sums(thread, at, rows, of_state, (of_query ? sums_of.from_state : sums_of.to_state) + parts);
    }

    double pairs[2] = {0, 0};
    if constexpr (of_query) {
      const int document = chunks.document_of(at.sequence, at.first);
      const Index from = document >= 0 ? document : at.chunk * chunks.chunk_size;
      for (Index t = from; t < at.first + at.count; t += others) {
        add_others(thread, at, t, at.first + at.count, rows, sums, pairs);
      }
    } else {
      const Index end = chunks.end_of(at.chunk);
      for (Index t = at.first; t < end; t += others) add_others(thread, at, t, end, rows, sums, pairs);
    }
    if constexpr (!of_value) {
      if (at.column_block == 0) store_sums(thread, at, rows, pairs, of_query ? sums_of.row_sum : sums_of.column_sum);
    }
    XLSTM_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (rows[i].inside) at.store_row(thread, sums, i, 1.0F, at.row_in(chunks, gradient, rows[i].token));
    }
  }

 private:
  /// What a thread knows of one of its two tokens.
  struct Row {
    Index token;     ///< of the sequence
    bool inside;     ///< the block's, else the row is padding
    int document;    ///< where it starts in the chunk, else −1
    float exponent;  ///< −ρ of a query, c of a key
    float scale;     ///< 1/(d √Q) of a query
    float with_sum;  ///< g of a query
    bool reached;    ///< by the state
    float of_state;  ///< W of a query, e of a key
  };

  XLSTM_DEVICE Row row_of(const Tile& at, const ChunkPassage& passage, int row) const {
    Row r{at.first + row, row < at.count, 0, 0.0F, 0.0F, 0.0F, false, 0.0F};
    if (!r.inside) return r;
    const Index token = chunks.tokens(at.sequence, at.head) + r.token;
    r.document = chunks.document_of(at.sequence, r.token);
    if constexpr (of_query) {
      r.exponent = -sums_of.reference[token];
      r.scale = sums_of.scale[token];
      r.with_sum = sums_of.through_sum[token];
      r.reached = r.document < 0;
      r.of_state = sums_of.carried[token];
    } else {
      r.exponent = chunks.source[token];
      r.reached = r.document >= passage.document;
      if (r.reached) r.of_state = exp(r.exponent - passage.reference);
    }
    return r;
  }

  /// sums = of_state · rows · state, and with it the part of n; `products`: of the tokens' own rows with them.
  template <class Thread>
  XLSTM_DEVICE void add_state(Thread& thread, const Tile& at, const Row (&rows)[2], Sums& sums,
                              double (&products)[2]) const {
    auto left = thread.template shared<StateRows>();
    auto tile = thread.template shared<State>();
    const Index chunk = chunks.chunk(at.sequence, at.head, at.chunk);
    const S* state = (of_query ? chunks.c : sums_of.dc) + chunk * Q * V;
    for (int first = 0; first < state_depth; first += depth) {
      thread.sync_block();
      if constexpr (of_value) {
        stage_tile<S, tokens, depth, Width>(thread, left, at.row_in(chunks, k, at.first) + first, k.stride(), at.count,
                                            Q - first);
        stage_tile<S, depth, columns, state_width>(thread, tile, state + Index{first} * V + at.column, V, Q - first,
                                                   V - at.column);
      } else {
        const auto& from = of_query ? dh : v;
        stage_tile<S, tokens, depth, Width>(thread, left, at.row_in(chunks, from, at.first) + first, from.stride(),
                                            at.count, V - first);
        stage_tile<S, columns, depth, state_width>(thread, tile, state + Index{at.column} * V + first, V, Q - at.column,
                                                   V - first);
      }
      thread.sync_block();
      if constexpr (of_value) {
        add_product_with_rows<Product, depth>(thread, sums, left, depth_stride, tile, state_stride);
      } else {
        add_product_with_columns<Product, depth>(thread, sums, left, depth_stride, tile, state_stride);
      }
    }
    [[maybe_unused]] const float* n = (of_query ? chunks.n : sums_of.dn) + chunk * Q;
    XLSTM_UNROLL
    for (int j = 0; j < Tile::column_tiles; ++j) {
      XLSTM_UNROLL
      for (int e = 0; e < FragmentC::elements; ++e) {
        const Row& r = rows[e / 2];
        float& sum = sums[j].values[e];
        if (!r.reached) {  // what is forgotten may be no number
          sum = 0.0F;
          continue;
        }
        if constexpr (!of_value) {
          const int column = at.column_of(thread, j, e);
          if (column >= Q) continue;
          if constexpr (of_key) sum += n[column];
          if constexpr (of_query && Cell::denominator_gradient) sum -= r.with_sum * n[column];
          sum *= r.of_state;
          const float own = to_float(at.row_in(chunks, of_query ? q : k, r.token)[column]);
          products[e / 2] += static_cast<double>(sum) * static_cast<double>(own);
        } else {
          sum *= r.of_state;
        }
      }
    }
  }

  /// products = rows · othersᵀ of two matrices of one width.
  template <Index W, class Thread>
  XLSTM_DEVICE void multiply(Thread& thread, const Tile& at, const MatrixView<const T, W>& of_rows,
                             const MatrixView<const T, W>& of_others, Index from, int count,
                             FragmentC (&products)[other_tiles]) const {
    constexpr int whole = static_cast<int>(W / Cell::heads);
    auto row = thread.template shared<Rows>();
    auto other = thread.template shared<Others>();
    for (int first = 0; first < whole; first += depth) {
      thread.sync_block();
      stage_tile<S, tokens, depth, Width>(thread, row, at.row_in(chunks, of_rows, at.first) + first, of_rows.stride(),
                                          at.count, whole - first);
      stage_tile<S, others, depth, Width>(thread, other, at.row_in(chunks, of_others, from) + first, of_others.stride(),
                                          count, whole - first);
      thread.sync_block();
      add_product_with_columns<Product, depth>(thread, products, row, depth_stride, other, depth_stride);
    }
  }

  /// What the other tokens from `from` on add, as many as a tile has and none from `end` on; `pairs`: Σ G but G_jj.
  template <class Thread>
  XLSTM_DEVICE void add_others(Thread& thread, const Tile& at, Index from, Index end, const Row (&rows)[2], Sums& sums,
                               double (&pairs)[2]) const {
    const int count = static_cast<int>(end - from < others ? end - from : others);
    FragmentC scores[other_tiles];
    FragmentC weights[other_tiles];
    if constexpr (of_query) {
      multiply(thread, at, q, k, from, count, scores);
      multiply(thread, at, dh, v, from, count, weights);
    } else {
      multiply(thread, at, k, q, from, count, scores);
      if constexpr (of_key) multiply(thread, at, v, dh, from, count, weights);
    }
    // The last barrier of multiply() lies behind the last use of Factors.
    auto factor = thread.template shared<Factors>();
    const auto stage = [&](const auto& all) {
      stage_tile<S, others, columns, Width>(thread, factor, at.row_in(chunks, all, from) + at.column, all.stride(),
                                            count, D - at.column);
    };
    if constexpr (of_query) stage(k);
    if constexpr (of_key) stage(q);
    if constexpr (of_value) stage(dh);
    thread.sync_block();

    const Index other_tokens = chunks.tokens(at.sequence, at.head) + from;
    float added[2] = {0, 0};
    XLSTM_UNROLL
    for (int j = 0; j < other_tiles; ++j) {
      XLSTM_UNROLL
      for (int e = 0; e < FragmentC::elements; ++e) {
        const Row& r = rows[e / 2];
        const int column = j * FragmentC::columns + FragmentC::column(thread.lane(), e);
        const Index other = from + column;
        bool counts = r.inside && column < count;
        if constexpr (of_query) {
          counts = counts && other <= r.token && other >= r.document;
        } else {
          counts = counts && other >= r.token && chunks.document_of(at.sequence, other) <= r.token;
        }
        if (!counts) {
          weights[j].values[e] = 0.0F;
          continue;
        }
        const float score = scores[j].values[e];
        float weight;
        float with_sum = r.with_sum;
        if constexpr (of_query) {
          weight = exp(chunks.source[other_tokens + column] + r.exponent) * r.scale;
        } else {
          weight = exp(r.exponent - sums_of.reference[other_tokens + column]) * sums_of.scale[other_tokens + column];
          with_sum = sums_of.through_sum[other_tokens + column];
        }
        if constexpr (of_value) {
          weights[j].values[e] = weight * score;
        } else {
          weight *= weights[j].values[e] - with_sum;
          weights[j].values[e] = weight;
          if (other != r.token) {
            added[e / 2] += weight * score;
          } else if (of_key && at.column_block == 0) {
            sums_of.diagonal[other_tokens + column] = static_cast<double>(weight * score);
          }
        }
      }
    }
    XLSTM_UNROLL
    for (int i = 0; i < 2; ++i) pairs[i] += static_cast<double>(added[i]);
    add_product_of_sums<Product>(thread, sums, weights, factor, factor_stride);
  }

  /// Tokens' sums, of which four threads have a part each.
  template <class Thread>
  XLSTM_DEVICE void store_sums(Thread& thread, const Tile& at, const Row (&rows)[2], const double (&parts)[2],
                               double* to) const {
    XLSTM_UNROLL
    for (int i = 0; i < 2; ++i) {
      double sum = parts[i] + thread.shuffle_xor(parts[i], 1);
      sum += thread.shuffle_xor(sum, 2);
      if (rows[i].inside && thread.lane() % 4 == 0) to[chunks.tokens(at.sequence, at.head) + rows[i].token] = sum;
    }
  }
};

}  // namespace xlstm::cuda
