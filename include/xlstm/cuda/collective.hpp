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

/// Lane l gets the values of lanes 0…l, reduced in their order; `operation` need not commute.
template <class T, class Operation, DeviceThread Thread>
XLSTM_DEVICE T warp_inclusive_scan(Thread& thread, T x, Operation operation) {
  XLSTM_UNROLL
  for (int by = 1; by < warp_size; by *= 2) {
    const T before = thread.shuffle_up(x, by);
    if (thread.lane() >= by) x = operation(before, x);
  }
  return x;
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
