// SPDX-License-Identifier: Apache-2.0
// What a trainer has of every parameter (weights, masters, gradients, moments): a block in the memory in which the
// backend computes, all parameters in the order of the visit. On a host that is the layout of allocate_weights itself.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "xlstm/model/weights.hpp"
#include "xlstm/nn/module.hpp"

namespace xlstm {

/// Zeros at first. In the host's memory.
template <class Network, class B>
class ParameterBlock : public Weights<Network, B> {
 public:
  template <class Resources>
  ParameterBlock(const std::shared_ptr<Resources>&, std::string_view)
      : Weights<Network, B>(allocate_weights<Network, B>()) {}

  /// Zeros again, written by the threads of `backend`.
  template <class Backend>
  void clear(Backend& backend) {
    using T = typename B::Arithmetic;
    backend.zero(reinterpret_cast<T*>(this->memory.data()), this->memory.bytes() / static_cast<Index>(sizeof(T)));
  }
  void initialize(std::uint64_t seed) { xlstm::initialize(static_cast<Weights<Network, B>&>(*this), seed); }
  /// The values of one of `parameters`, for the host to read until the next call.
  template <class Handle>
  auto read(const Handle& handle) {
    return std::span(handle.data(), static_cast<std::size_t>(handle.count));
  }
  template <class Handle>
  void write(Handle& handle, const void* values) {
    std::memcpy(handle.data(), values, static_cast<std::size_t>(handle.bytes));
  }
  /// Calls use(parameters) with all of them in the host's memory.
  template <class Use>
  void read_all(Use&& use) const {
    use(this->parameters);
  }
};

/// Zeros at first. In a device's memory; nothing that the device still works on may be touched here.
template <class Network, DeviceBackend B>
class ParameterBlock<Network, B> {
 public:
  using Memory = typename B::DeviceMemory;

  typename Network::template Parameters<B> parameters;
  Memory memory;

  /// Error that says `what`, which is kept, if the device has too little memory.
  ParameterBlock(const std::shared_ptr<typename B::Resources>& resources, std::string_view what)
      : memory(resources, block_bytes<Network, B>(), what) {
    bind_block<Network, B>(parameters, static_cast<std::byte*>(memory.data()));
  }

  template <class Backend>
  void clear(Backend&) {
    memory.zero();
  }
  void initialize(std::uint64_t seed) {
    Weights<Network, B> host = allocate_weights<Network, B>();
    xlstm::initialize(host, seed);
    memory.upload(0, host.memory.data(), memory.bytes());
  }
  template <class Handle>
  auto read(const Handle& handle) {
    using Element = typename Handle::Element;
    read_.resize(static_cast<std::size_t>(handle.bytes));
    memory.download(offset(handle), read_.data(), handle.bytes);
    return std::span(reinterpret_cast<const Element*>(read_.data()), static_cast<std::size_t>(handle.count));
  }
  template <class Handle>
  void write(Handle& handle, const void* values) {
    memory.upload(offset(handle), values, handle.bytes);
  }
  template <class Use>
  void read_all(Use&& use) const {
    Weights<Network, B> host = allocate_weights<Network, B>();
    memory.download(0, host.memory.data(), memory.bytes());
    use(std::as_const(host.parameters));
  }

 private:
  template <class Handle>
  Index offset(const Handle& handle) const {
    return reinterpret_cast<const std::byte*>(handle.data()) - static_cast<const std::byte*>(memory.data());
  }

  std::vector<std::byte> read_;
};

/// The states of a series of batches, `Size` values a sequence. In the host's memory.
template <class B, Index Size>
class BatchStates {
 public:
  using State = typename B::State;
  explicit BatchStates(const std::shared_ptr<typename B::Resources>&) {}

  std::vector<State> values;

  /// Zeros, unless the batch goes on with states of this many sequences. They may have been replaced from outside.
  void begin(Index sequences, bool continues) {
    const auto size = static_cast<std::size_t>(sequences * Size);
    if (!continues || values.size() != size) values.assign(size, 0);
    pointers_.resize(static_cast<std::size_t>(sequences));
    for (Index b = 0; b < sequences; ++b) pointers_[static_cast<std::size_t>(b)] = values.data() + b * Size;
  }
  /// Zeros are what the next batch begins with.
  void clear() { values.clear(); }
  StateSlots<State> slots() const { return {pointers_.data(), 0}; }

 private:
  std::vector<State*> pointers_;
};

/// In a device's memory; the array of the slots is the host's.
template <DeviceBackend B, Index Size>
class BatchStates<B, Size> {
 public:
  using State = typename B::State;
  explicit BatchStates(const std::shared_ptr<typename B::Resources>& resources) : resources_(resources) {}

  void begin(Index sequences, bool continues) {
    const Index bytes = std::max<Index>(sequences * Size, 1) * static_cast<Index>(sizeof(State));
    if (!memory_ || memory_->bytes() != bytes) {
      memory_.reset();
      memory_.emplace(resources_, bytes, "the states of a batch");
    } else if (!continues) {
      memory_->zero();
    }
    pointers_.resize(static_cast<std::size_t>(sequences));
    for (Index b = 0; b < sequences; ++b) {
      pointers_[static_cast<std::size_t>(b)] = static_cast<State*>(memory_->data()) + b * Size;
    }
  }
  void clear() { memory_.reset(); }
  StateSlots<State> slots() const { return {pointers_.data(), 0}; }

 private:
  std::shared_ptr<typename B::Resources> resources_;
  std::optional<typename B::DeviceMemory> memory_;
  std::vector<State*> pointers_;
};

}  // namespace xlstm
