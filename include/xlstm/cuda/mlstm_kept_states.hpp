// SPDX-License-Identifier: Apache-2.0
// Copies of the cell's states, which the forward pass overwrites and the backward pass of a device begins with.
#pragma once

#include "xlstm/core/run.hpp"
#include "xlstm/cuda/launch.hpp"
#include "xlstm/cuda/thread.hpp"

namespace xlstm::cuda {

/// A block has a part of a sequence's state.
struct KeptStatesKernel {
  StateSlots<float> from;
  float* to;      ///< (sequences, size)
  float** slots;  ///< of the copies
  Index size;
  int parts;  ///< blocks of a sequence

  static constexpr int threads = 256;
  static constexpr int values = 4 * threads;  ///< of a block

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int sequence = thread.block_index().x / parts;
    const int part = thread.block_index().x % parts;
    const float* source = from[sequence];
    float* copy = to + sequence * size;
    if (part == 0 && thread.index() == 0) slots[sequence] = copy;
    for (int i = thread.index(); i < values; i += threads) {
      const Index at = Index{part} * values + i;
      if (at < size) copy[at] = source[at];
    }
  }
};

/// Copies `size` values of each sequence's state; `slots` (sequences) become those of the copies.
template <Launcher L>
void keep_states(L& launcher, StateSlots<float> from, Index sequences, Index size, float* to, float** slots) {
  const Index parts = ceil_div(size, KeptStatesKernel::values);
  launcher.launch({static_cast<int>(sequences * parts)},
                  KeptStatesKernel{from, to, slots, size, static_cast<int>(parts)});
}

}  // namespace xlstm::cuda
