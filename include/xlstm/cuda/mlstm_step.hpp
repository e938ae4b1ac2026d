// SPDX-License-Identifier: Apache-2.0
// One token of the mLSTM for each of many sequences, on a device (xLSTM 7B, arXiv 2503.13427, Eq. 3–11;
// cell/mlstm.hpp): decay, rank-1 update and Cᵀq̂ in one pass over C, in place. Reading and writing C is all that a step
// costs, so what counts is that every multiprocessor has loads under way: a block has some columns of one head of one
// sequence, whose rows it loads before it computes anything else.
//
// All blocks of a head need m and n as they were, and recompute the denominator from them. The last one to have read
// them writes the new ones: a ticket for each head says which it is.
#pragma once

#include "xlstm/core/run.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/gates.hpp"
#include "xlstm/cuda/launch.hpp"

namespace xlstm::cuda {

struct MLSTMStepTuning {
  static constexpr int threads = 256;
  static constexpr int columns = 32;        ///< of C, a block's; 32 floats are a line of memory
  static constexpr int rows_in_flight = 8;  ///< loads of a thread before it uses the first
};

/// Width: how many columns of C are loaded at once.
template <class Cell, class T, class Gate, class H, int Width, class Tuning = MLSTMStepTuning>
struct MLSTMStepKernel {
  MatrixView<const T, Cell::qk_width> q;
  MatrixView<const T, Cell::qk_width> k;
  MatrixView<const T, Cell::v_width> v;
  MatrixView<const Gate, Cell::heads> igate;
  MatrixView<const Gate, Cell::heads> fgate;
  StateSlots<float> state;
  MatrixView<const std::uint8_t, 1> starts;
  MatrixView<H, Cell::v_width> h;
  unsigned* tickets;

  static constexpr int threads = Tuning::threads;
  static constexpr int columns = Tuning::columns;
  static constexpr int tiles = static_cast<int>(ceil_div(Cell::v_dim, columns));

  static constexpr int Q = static_cast<int>(Cell::qk_dim);
  static constexpr int V = static_cast<int>(Cell::v_dim);
  static constexpr int threads_per_row = columns / Width;
  static constexpr int rows_per_pass = threads / threads_per_row;
  static constexpr int passes = static_cast<int>(ceil_div(Q, rows_per_pass));
  static constexpr int in_flight = passes < Tuning::rows_in_flight ? passes : Tuning::rows_in_flight;
  static constexpr int warps = threads / warp_size;
  static_assert(V % Width == 0 && columns % Width == 0 && warp_size % threads_per_row == 0,
                "xlstm: the columns of C's tile must be whole vectors, and a warp whole rows of it");

  struct Query : SharedArray<float, Q> {};  // q̂
  struct Key : SharedArray<float, Q> {};    // i k
  struct Partial : SharedArray<float, warps * columns> {};
  struct LastToRead : SharedArray<int, 1> {};
  using Shared = SharedLayout<Query, Key, Partial, LastToRead, BlockReduceStorage<float>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int tile = thread.block_index().x % tiles;
    const int head = thread.block_index().x / tiles % static_cast<int>(Cell::heads);
    const int sequence = thread.block_index().x / tiles / static_cast<int>(Cell::heads);
    const bool fresh = starts.data() != nullptr && *starts.row(sequence) != 0;
    float* whole = state[sequence];
    float* n = whole + Cell::n_offset + head * Q;
    float* m = whole + Cell::m_offset + head;

    const int column = tile * columns + thread.index() % threads_per_row * Width;
    const int first_row = thread.index() / threads_per_row;
    const bool inside = column < V;
    float* c = whole + (Index{head} * Q + first_row) * V + column;
    Vector<float, Width> rows[in_flight];
    load_rows(thread, rows, c, first_row, inside && !fresh);

    const TokenScales scales =
        token_scales<Cell>(to_float(igate.row(sequence)[head]), to_float(fgate.row(sequence)[head]), fresh ? 0.0F : *m);
    const float inverse = prepare(thread, sequence, head, scales, n, fresh);
    if (thread.index() == 0) {
      thread.fence();
      const unsigned before = thread.atomic_add(tickets + sequence * static_cast<int>(Cell::heads) + head, 1U);
      thread.template shared<LastToRead>()[0] = before == tiles - 1 ? 1 : 0;
    }

    Vector<float, Width> sums{};
    if (inside) update(thread, rows, c, first_row, fresh, scales.decay, value_of(sequence, head, column), sums);
    reduce(thread, sums);
    if (thread.index() < columns && tile * columns + thread.index() < V) {
      auto partial = thread.template shared<Partial>();
      float sum = 0;
      for (int warp = 0; warp < warps; ++warp) sum += partial[warp * columns + thread.index()];
      h.row(sequence)[head * V + tile * columns + thread.index()] = to_element<H>(sum * inverse);
    }

    const int last = thread.template shared<LastToRead>()[0];
    if (last != 0) {
      for (int i = thread.index(); i < Q; i += threads) {
        n[i] = next_n(sequence, head, scales, fresh ? 0.0F : n[i], i);
      }
      if (thread.index() == 0) {
        *m = scales.m;
        tickets[sequence * static_cast<int>(Cell::heads) + head] = 0;
      }
    }
  }

 private:
  XLSTM_DEVICE float next_n(int sequence, int head, const TokenScales& scales, float before, int i) const {
    return scales.decay * before + scales.input * to_float(k.row(sequence)[head * Q + i]);
  }
  XLSTM_DEVICE Vector<float, Width> value_of(int sequence, int head, int column) const {
    Vector<float, Width> value;
    XLSTM_UNROLL
    for (int i = 0; i < Width; ++i) value[i] = to_float(v.row(sequence)[head * V + column + i]);
    return value;
  }

  /// q̂ and i k into shared memory, and from n the inverse of the denominator. Ends with a barrier.
  template <class Thread>
  XLSTM_DEVICE float prepare(Thread& thread, int sequence, int head, const TokenScales& scales, const float* n,
                             bool fresh) const {
    auto query = thread.template shared<Query>();
    auto key = thread.template shared<Key>();
    const float query_scale = rsqrt(static_cast<float>(Q));
    float dot = 0;
    for (int i = thread.index(); i < Q; i += threads) {
      const float scaled = to_float(q.row(sequence)[head * Q + i]) * query_scale;
      query[i] = scaled;
      key[i] = scales.input * to_float(k.row(sequence)[head * Q + i]);
      dot += scaled * next_n(sequence, head, scales, fresh ? 0.0F : n[i], i);
    }
    return inverse_denominator<Cell>(block_reduce(thread, dot, Sum{}), scales.m);
  }

  /// Zeros where there is nothing to read.
  template <class Thread>
  XLSTM_DEVICE void load_rows(Thread& thread, Vector<float, Width> (&rows)[in_flight], const float* c, int first_row,
                              bool read) const {
    XLSTM_UNROLL
    for (int j = 0; j < in_flight; ++j) {
      rows[j] = {};
      if (read && first_row + j * rows_per_pass < Q) {
        rows[j] = thread.template load_streaming<Width>(c + Index{j} * rows_per_pass * V);
      }
    }
  }

  /// The thread's rows of C, and what they add to Cᵀq̂. The first rows are loaded already.
  template <class Thread>
  XLSTM_DEVICE void update(Thread& thread, Vector<float, Width> (&rows)[in_flight], float* c, int first_row, bool fresh,
                           float decay, const Vector<float, Width>& value, Vector<float, Width>& sums) const {
    auto query = thread.template shared<Query>();
    auto key = thread.template shared<Key>();
    for (int pass = 0; pass < passes; pass += in_flight) {
      const int row = first_row + pass * rows_per_pass;
      float* from = c + Index{pass} * rows_per_pass * V;
      if (pass > 0) load_rows(thread, rows, from, row, !fresh);
      XLSTM_UNROLL
      for (int j = 0; j < in_flight; ++j) {
        const int at = row + j * rows_per_pass;
        if (at < Q) {
          const float a = key[at];
          const float b = query[at];
          XLSTM_UNROLL
          for (int i = 0; i < Width; ++i) {
            rows[j][i] = decay * rows[j][i] + a * value[i];
            sums[i] += b * rows[j][i];
          }
          thread.store(from + Index{j} * rows_per_pass * V, rows[j]);
        }
      }
    }
  }

  /// The sums of each warp's rows, into shared memory. Ends with a barrier.
  template <class Thread>
  XLSTM_DEVICE void reduce(Thread& thread, Vector<float, Width>& sums) const {
    auto partial = thread.template shared<Partial>();
    XLSTM_UNROLL
    for (int i = 0; i < Width; ++i) {
      XLSTM_UNROLL
      for (int mask = threads_per_row; mask < warp_size; mask *= 2) sums[i] += thread.shuffle_xor(sums[i], mask);
    }
    if (thread.lane() < threads_per_row) {
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) partial[thread.warp() * columns + thread.lane() * Width + i] = sums[i];
    }
    thread.sync_block();
  }
};

/// h (B, H·V) from one token of each of B sequences; states in place. `state.slots` is in device memory, and each slot
/// is aligned to 16 bytes. `starts` (B, 1), or its data null: non-zero where a document starts. `tickets` (B, H):
/// zeros, and zeros again afterwards.
template <class Cell, class T, class Gate, class H, Launcher L>
void mlstm_step(L& launcher, MatrixView<const T, Cell::qk_width> q, MatrixView<const T, Cell::qk_width> k,
                MatrixView<const T, Cell::v_width> v, MatrixView<const Gate, Cell::heads> igate,
                MatrixView<const Gate, Cell::heads> fgate, StateSlots<float> state,
                MatrixView<const std::uint8_t, 1> starts, MatrixView<H, Cell::v_width> h, unsigned* tickets) {
  const auto launch = [&]<int Width>() {
    using K = MLSTMStepKernel<Cell, T, Gate, H, Width>;
    const Index blocks = q.rows() * Cell::heads * K::tiles;
    launcher.launch({static_cast<int>(blocks)}, K{q, k, v, igate, fgate, state, starts, h, tickets});
  };
  if constexpr (Cell::v_dim % 4 == 0) {
    if (state.offset % 4 == 0) return launch.template operator()<4>();
  }
  launch.template operator()<1>();
}

}  // namespace xlstm::cuda
