// SPDX-License-Identifier: Apache-2.0
// h of the chunkwise mLSTM on a device, from the states between chunks (TFLA, arXiv 2503.14376, §2.2 and §3: tiled
// inside the chunk too). With b, c, r, d of cuda/mlstm_gate_scan.hpp, m, C, n the state before the chunk, or 0 where
// the token's document starts in it, and ρ_i = max(m, r_i):
//     N_i = exp(m − τ_i) Cᵀq̂_i + Σ_j P_ij v_j,   P_ij = (q̂_i·k_j) exp(c_j − τ_i)     over j ≤ i of i's document
//     s_i = exp(m − τ_i) nᵀq̂_i + Σ_j P_ij
//     h_i = z_i N_i / (max(|z_i s_i|, exp(−μ_i)) + ε),   μ_i = b_i + ρ_i,   z_i = exp(τ_i − ρ_i)
// Any τ gives the same. τ_i = max(r_i, ρ_i − 60) lets the largest weight in P be 1, which f16 needs, and the state's be
// e⁶⁰ at most; where it is that large, what the chunk adds is nothing beside it, unless the state is small by as much.
//
// A block has some tokens of a chunk and some columns of h. Rounded to T is P; the state is of type S, and q̂C is a
// product of elements of S.
#pragma once

#include "xlstm/cuda/mlstm_token_tile.hpp"
#include "xlstm/cuda/tile_product.hpp"

namespace xlstm::cuda {

/// Of every token's denominator, what the backward pass asks for; device memory, or null: nothing is kept.
struct MLSTMDenominators {
  float* inverse = nullptr;   ///< 1/(max(|s|, exp(−μ)) + ε), (B, H, length)
  float* sum_sign = nullptr;  ///< the sign of s where |s| > exp(−μ), else 0, (B, H, length)
};

/// Width: how many elements of q, k and v are loaded at once.
template <class Cell, class T, class H, class S, int Width, class Tuning = MLSTMChunkwiseTuning>
struct MLSTMChunkOutputsKernel {
  MatrixView<const T, Cell::qk_width> q;
  MatrixView<const T, Cell::qk_width> k;
  MatrixView<const T, Cell::v_width> v;
  MatrixView<H, Cell::v_width> h;
  MLSTMChunks<Cell, S> chunks;
  bool first_is_zero;  ///< the state before the first chunk is
  MLSTMDenominators denominators;

  static constexpr int Q = static_cast<int>(Cell::qk_dim);
  static constexpr int V = static_cast<int>(Cell::v_dim);
  static constexpr int threads = Tuning::output_threads;
  using Tile = MLSTMTokenTile<V, threads, Tuning::output_columns>;
  using Sums = typename Tile::Sums;
  static constexpr int tokens = Tile::tokens;
  static constexpr int columns = Tile::columns;
  static constexpr int keys = Tuning::output_keys;
  static constexpr int depth = Q < Tuning::output_depth ? static_cast<int>(round_up(Q, 16)) : Tuning::output_depth;
  static constexpr int key_tiles = keys / FragmentC::columns;
  static constexpr int state_width = V % vector_width<S> == 0 ? vector_width<S> : 1;
  static_assert(keys % 16 == 0 && depth % 16 == 0, "xlstm: tiles of the chunk outputs are multiples of 16");
  static_assert(Q % Width == 0 && V % Width == 0, "xlstm: a head's rows must be whole vectors");

  static constexpr int state_query_stride = tile_stride<S, depth>;
  static constexpr int state_stride = tile_stride<S, columns>;
  static constexpr int depth_stride = tile_stride<T, depth>;
  static constexpr int value_stride = tile_stride<T, columns>;
  struct StateQuery : SharedArray<S, tokens * state_query_stride> {};
  struct State : SharedArray<S, depth * state_stride> {};
  struct Query : SharedArray<T, tokens * depth_stride> {};
  struct Keys : SharedArray<T, keys * depth_stride> {};
  struct Values : SharedArray<T, keys * value_stride> {};
  using Shared = SharedLayout<SharedOverlay<SharedLayout<StateQuery, State>, SharedLayout<Query, Keys, Values>>>;

  /// Blocks of a launch.
  static Index blocks(const MLSTMChunks<Cell, S>& chunks) { return Tile::blocks(chunks); }

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Tile at(chunks, thread.block_index().x);
    if (at.count <= 0) return;

    Row rows[2];
    XLSTM_UNROLL
    for (int i = 0; i < 2; ++i) rows[i] = row_of(at, Tile::row(thread, i));
    Sums sums;
    float s[2] = {0, 0};
    const bool state_reaches = chunks.document_of(at.sequence, at.first) < 0 && !(first_is_zero && at.chunk == 0);
    if (state_reaches) add_state(thread, at, rows, sums, s);

    // What lies before the document of the block's first token lies before all its documents.
    const int document = chunks.document_of(at.sequence, at.first);
    const Index first_key = document >= 0 ? document : at.chunk * chunks.chunk_size;
    for (Index from = first_key; from < at.first + at.count; from += keys) add_keys(thread, at, from, rows, sums, s);
    store(thread, at, rows, sums, s);
  }

 private:
  /// What a thread knows of one of its two tokens.
  struct Row {
    Index token;    ///< of the sequence
    bool inside;    ///< the block's, else the row is padding
    int document;   ///< where it starts in the chunk, else −1
    float carried;  ///< exp(m − τ)/√Q, 0 where the state does not reach
    float scale;    ///< τ
    float final;    ///< z
    float m;        ///< μ
  };

  XLSTM_DEVICE Row row_of(const Tile& at, int row) const {
    constexpr float most = 60.0F;
    Row r{at.first + row, row < at.count, 0, 0.0F, 0.0F, 0.0F, 0.0F};
    if (!r.inside) return r;
    const Index token = chunks.tokens(at.sequence, at.head) + r.token;
    r.document = chunks.document_of(at.sequence, r.token);
    const float m = r.document < 0 ? chunks.m[chunks.chunk(at.sequence, at.head, at.chunk)] : 0.0F;
    const float forget_sum = chunks.forget_sum[token];
    const float peak = chunks.peak[token];
    const float reference = chunk_reference<Cell>(m, peak, forget_sum);
    r.scale = max(peak, reference - most);
    if (r.document < 0) r.carried = exp(m - r.scale) * rsqrt(static_cast<float>(Q));
    r.final = exp(r.scale - reference);
    r.m = Cell::InputGate::stabilized ? forget_sum + reference : 0.0F;
    return r;
  }

  /// sums = exp(m − τ) Cᵀq̂, s likewise.
  template <class Thread>
  XLSTM_DEVICE void add_state(Thread& thread, const Tile& at, const Row (&rows)[2], Sums& sums, float (&s)[2]) const {
    using Product = TileProduct<S>;
    auto query = thread.template shared<StateQuery>();
    auto tile = thread.template shared<State>();
    const Index chunk = chunks.chunk(at.sequence, at.head, at.chunk);
    for (int first = 0; first < Q; first += depth) {
      thread.sync_block();
      stage_tile<S, tokens, depth, Width>(thread, query, at.row_in(chunks, q, at.first) + first, q.stride(), at.count,
                                          Q - first);
      stage_tile<S, depth, columns, state_width>(thread, tile, chunks.c + (chunk * Q + first) * V + at.column, V,
                                                 Q - first, V - at.column);
      thread.sync_block();
      add_product_with_rows<Product, depth>(thread, sums, query, state_query_stride, tile, state_stride);
      for (int inner = thread.lane() % 4; inner < depth && first + inner < Q; inner += 4) {
        const float n = chunks.n[chunk * Q + first + inner];
        XLSTM_UNROLL
        for (int i = 0; i < 2; ++i) {
          const S element = query[Tile::row(thread, i) * state_query_stride + inner];
          s[i] += n * to_float(element);
        }
      }
    }
    XLSTM_UNROLL
    for (int i = 0; i < 2; ++i) {
      s[i] = rows[i].document < 0 ? s[i] * rows[i].carried : 0.0F;  // what is forgotten may be no number
    }
    XLSTM_UNROLL
    for (int j = 0; j < Tile::column_tiles; ++j) {
      XLSTM_UNROLL
      for (int e = 0; e < FragmentC::elements; ++e) {
        const Row& r = rows[e / 2];
        sums[j].values[e] = r.document < 0 ? sums[j].values[e] * r.carried : 0.0F;
      }
    }
  }

  /// What the tokens from `from` on add, as many as a tile has.
  template <class Thread>
  XLSTM_DEVICE void add_keys(Thread& thread, const Tile& at, Index from, const Row (&rows)[2], Sums& sums,
                             float (&s)[2]) const {
    using Product = TileProduct<T>;
    auto query = thread.template shared<Query>();
    auto key = thread.template shared<Keys>();
    auto value = thread.template shared<Values>();
    const Index left = at.first + at.count - from;
    const int count = static_cast<int>(left < keys ? left : keys);

    FragmentC scores[key_tiles];
    for (int first = 0; first < Q; first += depth) {
      thread.sync_block();
      stage_tile<T, tokens, depth, Width>(thread, query, at.row_in(chunks, q, at.first) + first, q.stride(), at.count,
                                          Q - first);
      stage_tile<T, keys, depth, Width>(thread, key, at.row_in(chunks, k, from) + first, k.stride(), count, Q - first);
      if (first == 0) {
        stage_tile<T, keys, columns, Width>(thread, value, at.row_in(chunks, v, from) + at.column, v.stride(), count,
                                            V - at.column);
      }
      thread.sync_block();
      add_product_with_columns<Product, depth>(thread, scores, query, depth_stride, key, depth_stride);
    }

    const float* source = chunks.source + chunks.tokens(at.sequence, at.head) + from;
    const float query_scale = rsqrt(static_cast<float>(Q));
    XLSTM_UNROLL
    for (int j = 0; j < key_tiles; ++j) {
      XLSTM_UNROLL
      for (int e = 0; e < FragmentC::elements; ++e) {
        const Row& r = rows[e / 2];
        const int column = j * FragmentC::columns + FragmentC::column(thread.lane(), e);
        const bool counts = r.inside && column < count && from + column <= r.token && from + column >= r.document;
        const float weight = counts ? exp(source[column] - r.scale) * query_scale : 0.0F;
        scores[j].values[e] = counts ? weight * scores[j].values[e] : 0.0F;
        s[e / 2] += scores[j].values[e];
      }
    }
    add_product_of_sums<Product>(thread, sums, scores, value, value_stride);
  }

  template <class Thread>
  XLSTM_DEVICE void store(Thread& thread, const Tile& at, const Row (&rows)[2], const Sums& sums,
                          const float (&s)[2]) const {
    XLSTM_UNROLL
    for (int i = 0; i < 2; ++i) {
      float all = s[i];
      all += thread.shuffle_xor(all, 1);
      all += thread.shuffle_xor(all, 2);
      const Row& r = rows[i];
      if (!r.inside) continue;
      const float inverse = inverse_denominator<Cell>(r.final * all, r.m);
      if (denominators.inverse != nullptr && at.column == 0 && thread.lane() % 4 == 0) {
        const Index token = chunks.tokens(at.sequence, at.head) + r.token;
        const bool counts = Cell::denominator_gradient && abs(r.final * all) > exp(-r.m);
        denominators.inverse[token] = inverse;
        denominators.sum_sign[token] = counts ? (all > 0.0F ? 1.0F : -1.0F) : 0.0F;
      }
      at.store_row(thread, sums, i, r.final * inverse, at.row_in(chunks, h, r.token));
    }
  }
};

}  // namespace xlstm::cuda
