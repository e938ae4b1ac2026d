// SPDX-License-Identifier: Apache-2.0
// The gates' gradients of the chunkwise mLSTM on a device, from the sums of the kernels before
// (cpu/mlstm_backward.hpp has the formula, docs/gradients.md its reasons), all in double and over tokens of t's chunk:
//     δ log i_t = k_t·δk_t = to_state_t + Σ_{i≥t} G_it
//     δ log f_t = Σ_{j<t≤i} G_ij + Σ_{i≥t} from_state_i + Σ_{j<t} to_state_j + through,  0 where a document starts
// In the first two sums are only tokens of t's document; the first is Σ_{i≥t} (row_sum_i − column_sum_i).
#pragma once

#include "xlstm/cuda/mlstm_backward_states.hpp"

namespace xlstm::cuda {

/// A warp has a chunk of a head.
template <class Cell, class Gate, class S>
struct MLSTMGateGradientsKernel {
  MatrixView<const Gate, Cell::heads> igate;
  MatrixView<const Gate, Cell::heads> fgate;
  MatrixView<Gate, Cell::heads> digate;
  MatrixView<Gate, Cell::heads> dfgate;
  MLSTMChunks<Cell, S> chunks;
  MLSTMChunkGradients<Cell, S> sums_of;  ///< to_state's first part is overwritten
  int column_parts;                      ///< of from_state and to_state
  int through_parts;

  static constexpr int threads = warp_size;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int block = thread.block_index().x;
    const int count = static_cast<int>(chunks.count);
    const int head = block / count % static_cast<int>(Cell::heads);
    const int sequence = block / count / static_cast<int>(Cell::heads);
    const Index first = Index{block % count} * chunks.chunk_size;
    const Index end = chunks.end_of(block % count);
    const Index row = chunks.tokens(sequence, head);

    double earlier = 0;
    for (int part = 0; part < through_parts; ++part) earlier += sums_of.through[Index{block} * through_parts + part];
    for (Index base = first; base < end; base += warp_size) {
      const Index t = base + thread.lane();
      const double to_state = t < end ? over_parts(sums_of.to_state, row + t) : 0.0;
      const double sum = warp_inclusive_scan(thread, to_state, Sum{});
      const double before = thread.shuffle_up(sum, 1);
      if (t < end) {
        const Index token = sequence * chunks.length + t;
        const double x = Cell::GateCap::apply(static_cast<double>(to_float(igate.row(token)[head])));
        const double di = to_state + sums_of.column_sum[row + t] + sums_of.diagonal[row + t];
        digate.row(token)[head] =
            to_element<Gate>(static_cast<float>(di * Cell::InputGate::derivative(x) * Cell::GateCap::derivative(x)));
        sums_of.to_state[row + t] = earlier + (thread.lane() > 0 ? before : 0.0);
      }
      earlier += thread.shuffle(sum, warp_size - 1);
    }

    Later after{0, 0};
    for (Index base = first + (end - first - 1) / warp_size * warp_size; base >= first; base -= warp_size) {
      const Index t = base + thread.lane();
      Later sums{0, 0};
      if (t < end) {
        sums = {sums_of.row_sum[row + t] - sums_of.column_sum[row + t], over_parts(sums_of.from_state, row + t)};
      }
      const bool is_last = t + 1 < end && chunks.document_of(sequence, t + 1) == t + 1;
      sums = add_later(thread, sums, is_last, after);
      after = {thread.shuffle(sums.pairs, 0), thread.shuffle(sums.from_state, 0)};
      if (t >= end) continue;
      const Index token = sequence * chunks.length + t;
      double df = 0;
      if (chunks.document_of(sequence, t) != t) {
        df = (t > first ? sums.pairs : 0.0) + sums.from_state + sums_of.to_state[row + t];
      }
      const double x = Cell::GateCap::apply(static_cast<double>(to_float(fgate.row(token)[head])));
      dfgate.row(token)[head] = to_element<Gate>(static_cast<float>(df * sigmoid(-x) * Cell::GateCap::derivative(x)));
    }
  }

 private:
  struct Later {
    double pairs;
    double from_state;
  };

  XLSTM_DEVICE double over_parts(const double* sums, Index token) const {
    double sum = 0;
    for (int part = 0; part < column_parts; ++part) {
      sum += sums[part * chunks.sequences * Cell::heads * chunks.length + token];
    }
    return sum;
  }
  /// Adds to a token's values those of the later tokens of its document; `after`: those of the token after the warp's.
  template <class Thread>
  XLSTM_DEVICE static Later add_later(Thread& thread, Later sums, bool is_last, const Later& after) {
    int closed = is_last ? 1 : 0;
    XLSTM_UNROLL
    for (int by = 1; by < warp_size; by *= 2) {
      const double pairs = thread.shuffle_down(sums.pairs, by);
      const double from_state = thread.shuffle_down(sums.from_state, by);
      const int next_closed = thread.shuffle_down(closed, by);
      if (thread.lane() + by >= warp_size || closed != 0) continue;
      sums.pairs += pairs;
      sums.from_state += from_state;
      closed = next_closed;
    }
    if (closed == 0) {
      sums.pairs += after.pairs;
      sums.from_state += after.from_state;
    }
    return sums;
  }
};

}  // namespace xlstm::cuda
