// SPDX-License-Identifier: Apache-2.0
// The tile of a head's C (Q × V) that a block of the chunkwise mLSTM keeps in fp32 registers while it walks through the
// chunks, and with it the tile's part of n: where they are, and what a chunk adds to them,
//     C += Σ_t x_t y_tᵀ    n += Σ_t a_t x_t
// The forward pass sums keys and values so, the backward pass queries and δh, each x_t multiplied by its weight.
#pragma once

#include "xlstm/cuda/mlstm_gate_scan.hpp"
#include "xlstm/cuda/tile_product.hpp"

namespace xlstm::cuda {

/// E: what x and y are rounded to. Width: how many elements of them are loaded at once.
template <class Cell, class E, int Width, class Tuning>
class MLSTMStateTile {
 public:
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
  static constexpr int blocks_of_columns = static_cast<int>(ceil_div(V, columns));
  static constexpr int blocks_per_head = static_cast<int>(ceil_div(Q, rows)) * blocks_of_columns;
  static constexpr int rows_of_n = static_cast<int>(ceil_div(rows, threads));  ///< a thread's
  static_assert(tokens % 16 == 0 && columns % 16 == 0, "xlstm: tiles of the chunk states are multiples of 16");
  static_assert(Q % Width == 0 && V % Width == 0, "xlstm: a head's rows must be whole vectors");

  static constexpr int x_stride = tile_stride<E, rows>;
  static constexpr int y_stride = tile_stride<E, columns>;
  struct X : SharedArray<E, tokens * x_stride> {};
  struct Y : SharedArray<E, tokens * y_stride> {};
  using Shared = SharedLayout<X, Y>;

  /// A thread's.
  struct Values {
    FragmentC c[row_tiles][column_tiles];
    float n[rows_of_n] = {};
  };

  const int sequence;
  const int head;
  const int part;  ///< of the head's C; the first has m

  XLSTM_DEVICE explicit MLSTMStateTile(int block)
      : sequence(block / blocks_per_head / static_cast<int>(Cell::heads)),
        head(block / blocks_per_head % static_cast<int>(Cell::heads)),
        part(block % blocks_per_head),
        first_row_(part / blocks_of_columns * rows),
        first_column_(part % blocks_of_columns * columns) {}

  /// Calls f(entry, value) for the thread's entries of C.
  template <class Thread, class F>
  XLSTM_DEVICE void for_each_of_c(Thread& thread, Values& values, F&& f) const {
    XLSTM_UNROLL
    for (int i = 0; i < row_tiles; ++i) {
      XLSTM_UNROLL
      for (int j = 0; j < column_tiles; ++j) {
        XLSTM_UNROLL
        for (int e = 0; e < FragmentC::elements; ++e) {
          const int row = first_row_ + (thread.warp() * row_tiles + i) * 16 + FragmentC::row(thread.lane(), e);
          const int column = first_column_ + j * FragmentC::columns + FragmentC::column(thread.lane(), e);
          if (row < Q && column < V) f(Index{row} * V + column, values.c[i][j].values[e]);
        }
      }
    }
  }
  /// Calls f(row, value) for the thread's entries of n, of which tiles of C's first columns have a part.
  template <class Thread, class F>
  XLSTM_DEVICE void for_each_of_n(Thread& thread, Values& values, F&& f) const {
    if (first_column_ != 0) return;
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) {
      const int row = thread.index() + i * threads;
      if (row < rows && first_row_ + row < Q) f(first_row_ + row, values.n[i]);
    }
  }

  /// C and n of a sequence's state.
  template <class Thread>
  XLSTM_DEVICE void load(Thread& thread, Values& values, const float* state) const {
    const float* c = state + Index{head} * Q * V;
    const float* n = state + Cell::n_offset + head * Q;
    for_each_of_c(thread, values, [&](Index entry, float& x) { x = c[entry]; });
    for_each_of_n(thread, values, [&](int row, float& x) { x = n[row]; });
  }
  template <class Thread>
  XLSTM_DEVICE void store(Thread& thread, Values& values, float* state) const {
    store(thread, values, state + Index{head} * Q * V, state + Cell::n_offset + head * Q);
  }
  /// C (Q, V) and n (Q) of the head.
  template <class Thread, class S>
  XLSTM_DEVICE void store(Thread& thread, Values& values, S* c, float* n) const {
    for_each_of_c(thread, values, [&](Index entry, float& x) { c[entry] = to_element<S>(x); });
    for_each_of_n(thread, values, [&](int row, float& x) { n[row] = x; });
  }

  /// Each value becomes join(value, added).
  template <class F>
  XLSTM_DEVICE static void join(Values& values, const Values& added, F&& join) {
    XLSTM_UNROLL
    for (int i = 0; i < row_tiles; ++i) {
      XLSTM_UNROLL
      for (int j = 0; j < column_tiles; ++j) {
        XLSTM_UNROLL
        for (int e = 0; e < FragmentC::elements; ++e) {
          values.c[i][j].values[e] = join(values.c[i][j].values[e], added.c[i][j].values[e]);
        }
      }
    }
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) values.n[i] = join(values.n[i], added.n[i]);
  }

  /// Takes the tile's part of x, each token's multiplied by weight(token), and of y, of `count` tokens from t on, into
  /// shared memory, between two barriers.
  template <class Thread, class T, class S, class Weight>
  XLSTM_DEVICE void stage(Thread& thread, const MLSTMChunks<Cell, S>& chunks,
                          const MatrixView<const T, Cell::qk_width>& x, const MatrixView<const T, Cell::v_width>& y,
                          Index t, int count, Weight weight) const {
    thread.sync_block();
    stage_tile<E, tokens, rows, Width>(thread, thread.template shared<X>(),
                                       chunks.row_of(x, sequence, head, t) + first_row_, x.stride(), count,
                                       Q - first_row_, weight);
    stage_tile<E, tokens, columns, Width>(thread, thread.template shared<Y>(),
                                          chunks.row_of(y, sequence, head, t) + first_column_, y.stride(), count,
                                          V - first_column_);
    thread.sync_block();
  }
  /// C += Σ x yᵀ over the tokens in shared memory.
  template <class Thread>
  XLSTM_DEVICE static void add_to_c(Thread& thread, Values& values) {
    using Product = TileProduct<E>;
    auto x = thread.template shared<X>();
    auto y = thread.template shared<Y>();
    for (int token = 0; token < tokens; token += 16) {
      XLSTM_UNROLL
      for (int i = 0; i < row_tiles; ++i) {
        const auto a =
            Product::load_transposed(thread, x + (token * x_stride + (thread.warp() * row_tiles + i) * 16), x_stride);
        add_rows<Product>(thread, values.c[i], a, y + token * y_stride, y_stride);
      }
    }
  }
  /// n += Σ factor(token) x over the first `count` of them.
  template <class Thread, class Factor>
  XLSTM_DEVICE void add_to_n(Thread& thread, Values& values, int count, Factor&& factor) const {
    if (first_column_ != 0) return;
    auto x = thread.template shared<X>();
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) {
      const int row = thread.index() + i * threads;
      if (row >= rows) continue;
      for (int token = 0; token < count; ++token) {
        const E element = x[token * x_stride + row];
        values.n[i] += factor(token) * to_float(element);
      }
    }
  }

 private:
  const int first_row_;
  const int first_column_;
};

}  // namespace xlstm::cuda
