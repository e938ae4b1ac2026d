// SPDX-License-Identifier: Apache-2.0
// The states between chunks of the mLSTM, on a device (TFLA, arXiv 2503.14376, §2.2; the scan of cell/scan.hpp): with
// b, c, r, d of cuda/mlstm_gate_scan.hpp at the chunk's last token, and the sums over the tokens j of its last
// document,
//     M = max(m, r),   C ← exp(m − M) C + exp(r − M) Σ_j exp(c_j − r) k_j v_jᵀ,   m ← b + M,    n as C with v ≡ 1
// A block has a tile of a head's C in fp32 registers and walks through the chunks. The sum is made by itself, on the
// tensor cores, so that weights exp(c_j − r) reach 1 in every chunk: rounded to f16, smaller ones would be nothing.
// Rounded to T are k_j times its weight, and the states that the outputs read, which are of type S.
#pragma once

#include "xlstm/cuda/mlstm_gate_scan.hpp"
#include "xlstm/cuda/tile_product.hpp"

namespace xlstm::cuda {

/// Width: how many elements of k and v are loaded at once.
template <class Cell, class T, class S, int Width, class Tuning = MLSTMChunkwiseTuning>
struct MLSTMChunkStatesKernel {
  MatrixView<const T, Cell::qk_width> k;
  MatrixView<const T, Cell::v_width> v;
  StateSlots<float> state;  ///< the first states in, the last ones out; or null: zeros in
  MLSTMChunks<Cell, S> chunks;
  bool stores_last = true;  ///< false: `state` is only read

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
  static_assert(Q % Width == 0 && V % Width == 0, "xlstm: a head's keys and values must be whole vectors");

  static constexpr int key_stride = tile_stride<T, rows>;
  static constexpr int value_stride = tile_stride<T, columns>;
  struct Keys : SharedArray<T, tokens * key_stride> {};
  struct Values : SharedArray<T, tokens * value_stride> {};
  using Shared = SharedLayout<Keys, Values>;
  using Product = TileProduct<T>;
  using Sums = FragmentC[row_tiles][column_tiles];
  static constexpr int rows_of_n = static_cast<int>(ceil_div(rows, threads));  ///< a thread's

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int block = thread.block_index().x;
    const int head = block / blocks_per_head % static_cast<int>(Cell::heads);
    const int sequence = block / blocks_per_head / static_cast<int>(Cell::heads);
    const int first_row = block % blocks_per_head / blocks_of_columns * rows;
    const int first_column = block % blocks_of_columns * columns;
    const bool has_n = first_column == 0;
    const bool has_m = has_n && first_row == 0;
    float* whole = state ? state[sequence] : nullptr;
    float* c_state = whole != nullptr ? whole + Index{head} * Q * V : nullptr;
    float* n_state = whole != nullptr ? whole + Cell::n_offset + head * Q : nullptr;
    const Index tokens_row = chunks.tokens(sequence, head);

    Sums c;
    float n[rows_of_n];
    load(thread, c, n, c_state, n_state, first_row, first_column);
    float m = chunks.m[chunks.chunk(sequence, head, 0)];

    for (Index chunk = 0; chunk < chunks.count; ++chunk) {
      const Index at = chunks.chunk(sequence, head, chunk);
      store_c(thread, c, chunks.c + at * Q * V, first_row, first_column);
      if (has_n) store_n(thread, n, chunks.n + at * Q, first_row);
      if (has_m && chunk > 0 && thread.index() == 0) chunks.m[at] = m;

      const Index end = chunks.end_of(chunk);
      const int document = chunks.document_of(sequence, end - 1);
      const bool fresh = document >= 0;
      const float peak = chunks.peak[tokens_row + end - 1];
      const float forget_sum = chunks.forget_sum[tokens_row + end - 1];
      Sums added;
      float n_added[rows_of_n] = {};
      for (Index t = fresh ? document : chunk * chunks.chunk_size; t < end; t += tokens) {
        const int count = static_cast<int>(end - t < tokens ? end - t : tokens);
        stage(thread, sequence, head, t, count, first_row, first_column, peak);
        if (has_n) sum_keys(thread, n_added);
        add_products(thread, added);
      }

      const float m_before = fresh ? 0.0F : m;
      const float reference = chunk_reference<Cell>(m_before, peak, forget_sum);
      const float earlier = exp(m_before - reference);
      const float later = exp(peak - reference);
      const auto join = [&](float before, float sum) {
        return fresh ? later * sum : earlier * before + later * sum;  // what is forgotten may be no number
      };
      XLSTM_UNROLL
      for (int i = 0; i < row_tiles; ++i) {
        XLSTM_UNROLL
        for (int j = 0; j < column_tiles; ++j) {
          XLSTM_UNROLL
          for (int e = 0; e < FragmentC::elements; ++e) {
            c[i][j].values[e] = join(c[i][j].values[e], added[i][j].values[e]);
          }
        }
      }
      XLSTM_UNROLL
      for (int i = 0; i < rows_of_n; ++i) n[i] = join(n[i], n_added[i]);
      m = Cell::InputGate::stabilized ? forget_sum + reference : 0.0F;
    }

    if (whole == nullptr || !stores_last) return;
    store_c(thread, c, c_state, first_row, first_column);
    if (has_n) store_n(thread, n, n_state, first_row);
    if (has_m && thread.index() == 0) whole[Cell::m_offset + head] = m;
  }

 private:
  /// Calls `f(row, column, sum)` for the thread's entries of C.
  template <class Thread, class F>
  XLSTM_DEVICE static void for_each_entry(Thread& thread, Sums& c, int first_row, int first_column, F&& f) {
    XLSTM_UNROLL
    for (int i = 0; i < row_tiles; ++i) {
      XLSTM_UNROLL
      for (int j = 0; j < column_tiles; ++j) {
        XLSTM_UNROLL
        for (int e = 0; e < FragmentC::elements; ++e) {
          const int row = first_row + (thread.warp() * row_tiles + i) * 16 + FragmentC::row(thread.lane(), e);
          const int column = first_column + j * FragmentC::columns + FragmentC::column(thread.lane(), e);
          if (row < Q && column < V) f(Index{row} * V + column, c[i][j].values[e]);
        }
      }
    }
  }
  template <class Thread>
  XLSTM_DEVICE void load(Thread& thread, Sums& c, float (&n)[rows_of_n], const float* c_state, const float* n_state,
                         int first_row, int first_column) const {
    if (c_state != nullptr)
      for_each_entry(thread, c, first_row, first_column, [&](Index at, float& x) { x = c_state[at]; });
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) {
      const int row = thread.index() + i * threads;
      n[i] = n_state != nullptr && row < rows && first_row + row < Q ? n_state[first_row + row] : 0.0F;
    }
  }
  template <class Thread, class U>
  XLSTM_DEVICE static void store_c(Thread& thread, Sums& c, U* to, int first_row, int first_column) {
    for_each_entry(thread, c, first_row, first_column, [&](Index at, float& x) { to[at] = to_element<U>(x); });
  }
  template <class Thread>
  XLSTM_DEVICE static void store_n(Thread& thread, const float (&n)[rows_of_n], float* to, int first_row) {
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) {
      const int row = thread.index() + i * threads;
      if (row < rows && first_row + row < Q) to[first_row + row] = n[i];
    }
  }

  /// Weighted keys and values of `count` tokens from t on, between two barriers.
  template <class Thread>
  XLSTM_DEVICE void stage(Thread& thread, int sequence, int head, Index t, int count, int first_row, int first_column,
                          float peak) const {
    const Index row = sequence * chunks.length + t;
    const float* source = chunks.source + chunks.tokens(sequence, head) + t;
    thread.sync_block();
    stage_tile<T, tokens, rows, Width>(thread, thread.template shared<Keys>(), k.row(row) + head * Q + first_row,
                                       k.stride(), count, Q - first_row,
                                       [&](int token) { return exp(source[token] - peak); });
    stage_tile<T, tokens, columns, Width>(thread, thread.template shared<Values>(),
                                          v.row(row) + head * V + first_column, v.stride(), count, V - first_column);
    thread.sync_block();
  }
  template <class Thread>
  XLSTM_DEVICE void sum_keys(Thread& thread, float (&n)[rows_of_n]) const {
    auto keys = thread.template shared<Keys>();
    XLSTM_UNROLL
    for (int i = 0; i < rows_of_n; ++i) {
      const int row = thread.index() + i * threads;
      if (row >= rows) continue;
      for (int token = 0; token < tokens; ++token) {
        const T key = keys[token * key_stride + row];
        n[i] += to_float(key);
      }
    }
  }
  template <class Thread>
  XLSTM_DEVICE void add_products(Thread& thread, Sums& sums) const {
    auto keys = thread.template shared<Keys>();
    auto values = thread.template shared<Values>();
    for (int token = 0; token < tokens; token += 16) {
      XLSTM_UNROLL
      for (int i = 0; i < row_tiles; ++i) {
        const auto a = Product::load_transposed(
            thread, keys + (token * key_stride + (thread.warp() * row_tiles + i) * 16), key_stride);
        XLSTM_UNROLL
        for (int j = 0; j < column_tiles; ++j) {
          Product::add_rows(thread, sums[i][j], a, values + (token * value_stride + j * FragmentC::columns),
                            value_stride);
        }
      }
    }
  }
};

}  // namespace xlstm::cuda
