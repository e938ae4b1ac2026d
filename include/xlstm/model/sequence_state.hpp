// SPDX-License-Identifier: Apache-2.0
// One sequence's recurrent state, where the backend computes. A value; zeros at first, the state before the first
// token.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "xlstm/nn/module.hpp"

namespace xlstm {

/// Size values in the host's memory.
template <class B, Index Size>
class SequenceState {
 public:
  using State = typename B::State;
  static constexpr std::size_t bytes = static_cast<std::size_t>(Size) * sizeof(State);

  explicit SequenceState(const std::shared_ptr<typename B::Resources>&)
      : values_(static_cast<std::size_t>(Size), State{0}) {}

  /// What a StateSlots points to.
  State* data() { return values_.data(); }
  /// The values, for the host to read.
  std::span<const State> read() const { return values_; }
  void write(const void* values) { std::memcpy(values_.data(), values, bytes); }
  void clear() { std::fill(values_.begin(), values_.end(), State{0}); }

 private:
  std::vector<State> values_;
};

/// Size values in a device's memory.
template <DeviceBackend B, Index Size>
class SequenceState<B, Size> {
 public:
  using State = typename B::State;
  static constexpr std::size_t bytes = static_cast<std::size_t>(Size) * sizeof(State);

  explicit SequenceState(const std::shared_ptr<typename B::Resources>& resources)
      : memory_(resources, static_cast<Index>(bytes), "a sequence's state") {}

  State* data() { return static_cast<State*>(memory_.data()); }
  /// A copy of the values.
  std::vector<State> read() const {
    std::vector<State> values(static_cast<std::size_t>(Size));
    memory_.download(0, values.data(), static_cast<Index>(bytes));
    return values;
  }
  void write(const void* values) { memory_.upload(0, values, static_cast<Index>(bytes)); }
  void clear() { memory_.zero(); }

 private:
  typename B::DeviceMemory memory_;
};

}  // namespace xlstm
