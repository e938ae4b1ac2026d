// SPDX-License-Identifier: Apache-2.0
// What the threads of a warp or a block compute together. Every lane calls; operations are associative function
// objects of two values, and the order in which values meet is fixed, so results are the same bits every time.
#pragma once

#include "xlstm/cuda/math.hpp"
#include "xlstm/cuda/thread.hpp"

namespace xlstm::cuda {

struct Sum {
  template <class T>
  XLSTM_HOST_DEVICE T operator()(T x, T y) const {
    return x + y;
  }
};
struct Maximum {
  XLSTM_HOST_DEVICE float operator()(float x, float y) const { return max(x, y); }
};

/// All lanes' values, reduced; every lane gets the result. `operation` must commute.
template <class T, class Operation, DeviceThread Thread>
XLSTM_DEVICE T warp_reduce(Thread& thread, T x, Operation operation) {
  XLSTM_UNROLL
  for (int mask = warp_size / 2; mask > 0; mask /= 2) x = operation(x, thread.shuffle_xor(x, mask));
  return x;
}

/// All lanes' values, N of each, N a power of two up to 32: lane l gets the sum of values [l / (32 / N)]. Half of the
/// values change lanes at first, then half of what is left: N − 1 shuffles and log₂(32 / N) more. A sum has the bits
/// that warp_reduce gives it.
template <int N, DeviceThread Thread>
XLSTM_DEVICE float warp_sums(Thread& thread, float (&values)[N]) {
  static_assert(N > 0 && N <= warp_size && (N & (N - 1)) == 0,
                "xlstm: a warp sums 1, 2, 4, 8, 16 or 32 values at once");
  XLSTM_UNROLL
  for (int step = 0; step < 5; ++step) {
    const int mask = warp_size / 2 >> step;
    const int half = N / 2 >> step;
    const bool upper = (thread.lane() & mask) != 0;
    if (half == 0) values[0] += thread.shuffle_xor(values[0], mask);
    XLSTM_UNROLL
    for (int i = 0; i < half; ++i) {
      const float kept = upper ? values[i + half] : values[i];
      const float given = upper ? values[i] : values[i + half];
      values[i] = kept + thread.shuffle_xor(given, mask);
    }
  }
  return values[0];
}

/// Lane l gets the values of lanes 0…l, reduced in their order; `operation` need not commute. On a GPU it is CUB's.
template <class T, class Operation, DeviceThread Thread>
XLSTM_DEVICE T warp_inclusive_scan(Thread& thread, T x, Operation operation) {
  if constexpr (requires { thread.inclusive_scan(x, operation); }) {
    return thread.inclusive_scan(x, operation);
  } else {
    XLSTM_UNROLL
    for (int by = 1; by < warp_size; by *= 2) {
      const T before = thread.shuffle_up(x, by);
      if (thread.lane() >= by) x = operation(before, x);
    }
    return x;
  }
}

/// The shared memory that a block's reduction needs: one value a warp.
template <class T>
struct BlockReduceStorage : SharedArray<T, 32> {};

/// All threads' values, reduced; every thread gets the result. A barrier follows the last use of the storage, so that
/// the next reduction may follow at once.
template <class T, class Operation, DeviceThread Thread>
XLSTM_DEVICE T block_reduce(Thread& thread, T x, Operation operation) {
  x = warp_reduce(thread, x, operation);
  constexpr int warps = Thread::block_threads / warp_size;
  if constexpr (warps > 1) {
    auto partial = thread.template shared<BlockReduceStorage<T>>();
    if (thread.lane() == 0) partial[thread.warp()] = x;
    thread.sync_block();
    x = partial[0];
    for (int warp = 1; warp < warps; ++warp) {
      const T other = partial[warp];
      x = operation(x, other);
    }
    thread.sync_block();
  }
  return x;
}

/// Whether the condition holds for any thread of the block. Uses BlockReduceStorage<int>.
template <DeviceThread Thread>
XLSTM_DEVICE bool block_any(Thread& thread, bool condition) {
  return block_reduce(thread, thread.any(condition) ? 1 : 0, Sum{}) != 0;
}

/// The shared memory that a block's scan needs: one value a warp.
template <class T>
struct BlockScanStorage : SharedArray<T, 32> {};

/// Thread i gets carry ∘ x_0 ∘ … ∘ x_i; `carry` becomes that of the last. A barrier follows the last use of the
/// storage.
template <class T, class Operation, DeviceThread Thread>
XLSTM_DEVICE T block_inclusive_scan(Thread& thread, T x, Operation operation, T& carry) {
  constexpr int warps = Thread::block_threads / warp_size;
  auto totals = thread.template shared<BlockScanStorage<T>>();
  x = warp_inclusive_scan(thread, x, operation);
  if (thread.lane() == warp_size - 1) totals[thread.warp()] = x;
  thread.sync_block();
  T before = carry;
  for (int warp = 0; warp < warps; ++warp) {
    if (warp == thread.warp()) before = carry;
    const T total = totals[warp];
    carry = operation(carry, total);
  }
  thread.sync_block();
  return operation(before, x);
}

}  // namespace xlstm::cuda
