// SPDX-License-Identifier: Apache-2.0
// Memory for a network's parameters: one block that holds them all in the order of the visit, each aligned to 64 bytes,
// or handles into a mapped file. Gradients and moments are the same layout in another block.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "xlstm/core/huge_pages.hpp"
#include "xlstm/core/normal.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/nn/parameter.hpp"

namespace xlstm {

/// Zeroed memory, aligned to 64 bytes, on large pages.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  explicit AlignedMemory(Index bytes)
      : data_(static_cast<std::byte*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{64}))),
        bytes_(bytes) {
    advise_huge_pages(data_.get(), static_cast<std::size_t>(bytes));
    std::memset(data_.get(), 0, static_cast<std::size_t>(bytes));
  }
  std::byte* data() const { return data_.get(); }
  Index bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  Index bytes_ = 0;
};

/// A network's parameters and whatever keeps their memory alive.
template <class Network, class B>
struct Weights {
  typename Network::template Parameters<B> parameters;
  AlignedMemory memory;                ///< what was allocated for them
  std::shared_ptr<const void> mapped;  ///< what they lie in otherwise: a file, or a device's memory
};

/// Where one parameter lies in the block.
struct ParameterRange {
  std::string name;
  Index offset = 0;  ///< in elements from the start of the block, when all elements have one size
  Index count = 0;
  Index rows = 0;
  Index cols = 0;
  bool is_matrix = false;
};

namespace detail {
/// Every parameter starts on a cache line; on a device where the fastest products want their matrices.
template <class B>
constexpr Index padded(Index bytes) {
  return round_up(bytes, DeviceBackend<B> ? 256 : 64);
}
}  // namespace detail

/// Bytes of the block of all parameters of a network.
template <class Network, class B>
Index block_bytes() {
  typename Network::template Parameters<B> parameters{};
  Index bytes = 0;
  for_each_parameter<Network>(
      parameters, [&](std::string_view, auto& handle, Initialization) { bytes += detail::padded<B>(handle.bytes); });
  return bytes;
}

/// Binds the handles to a block of block_bytes.
template <class Network, class B>
void bind_block(typename Network::template Parameters<B>& parameters, std::byte* block) {
  for_each_parameter<Network>(parameters, [&](std::string_view, auto& handle, Initialization) {
    handle.bind(block);
    block += detail::padded<B>(handle.bytes);
  });
}

/// Zeroed memory of the host for all parameters of a network, contiguous, with the handles bound to it.
template <class Network, class B>
Weights<Network, B> allocate_weights() {
  Weights<Network, B> weights;
  weights.memory = AlignedMemory(block_bytes<Network, B>());
  bind_block<Network, B>(weights.parameters, weights.memory.data());
  return weights;
}

/// The same weights in the memory of a device, in one block; the host's are not needed any more.
template <class Network, class B>
Weights<Network, B> upload_weights(const Weights<Network, B>& host,
                                   const std::shared_ptr<typename B::Resources>& resources) {
  using Memory = typename B::DeviceMemory;
  Weights<Network, B> weights;
  weights.parameters = host.parameters;
  const auto memory = std::make_shared<Memory>(resources, block_bytes<Network, B>(), "the weights");
  Index next = 0;
  for_each_parameter<Network>(weights.parameters, [&](std::string_view, auto& handle, Initialization) {
    const auto from = handle;
    auto* const start = static_cast<std::byte*>(memory->data());
    handle.bind(start + next);
    std::vector<const void*> arrays;
    for_each_array(from, [&](const void* array, Index) { arrays.push_back(array); });
    std::size_t i = 0;
    for_each_array(handle, [&](const void* there, Index size) {
      memory->upload(static_cast<const std::byte*>(there) - start, arrays[i++], size);
    });
    next += detail::padded<B>(handle.bytes);
  });
  weights.mapped = memory;
  return weights;
}

/// The parameters' places in the block of allocate_weights, for backends that store matrices and vectors alike.
template <class Network, class B>
std::vector<ParameterRange> parameter_ranges() {
  std::vector<ParameterRange> ranges;
  typename Network::template Parameters<B> parameters{};
  Index bytes = 0;
  for_each_parameter<Network>(parameters, [&](std::string_view name, auto& handle, Initialization) {
    using Handle = std::remove_cvref_t<decltype(handle)>;
    static_assert(sizeof(typename Handle::Element) == sizeof(typename B::Arithmetic),
                  "xlstm: only weights stored in the arithmetic type can be trained in place");
    ranges.push_back({std::string(name), bytes / static_cast<Index>(sizeof(typename Handle::Element)), handle.count,
                      handle.rows, handle.cols, handle.is_matrix});
    bytes += detail::padded<B>(handle.bytes);
  });
  return ranges;
}

/// The initial values of one parameter (xLSTM 7B's recipe; docs/training.md). They depend on the seed, the parameter's
/// name, and the index alone: random values come in pieces of `piece` values with a stream each, so that any piece of
/// any parameter can be made by itself, in any order, on any thread.
class InitialValues {
 public:
  static constexpr Index piece = 65536;

  InitialValues(std::string_view name, Initialization initialization, Index count, Index embedding_dim,
                Index num_blocks, std::uint64_t seed)
      : initialization_(initialization), count_(count), stream_(splitmix64(seed)) {
    using Kind = Initialization::Kind;
    for (const char c : name) stream_ = (stream_ ^ static_cast<unsigned char>(c)) * 0x100000001b3U;  // FNV-1a
    const double d = static_cast<double>(embedding_dim);
    if (initialization.kind == Kind::small) deviation_ = std::sqrt(2.0 / (5.0 * d));
    if (initialization.kind == Kind::wang) deviation_ = 2.0 / (static_cast<double>(num_blocks) * std::sqrt(d));
  }

  Index pieces() const { return ceil_div(count_, piece); }
  Index piece_size(Index i) const { return std::min(piece, count_ - i * piece); }

  /// Calls sink(value) for the values [i·piece, i·piece + piece_size(i)) in order.
  template <class Sink>
  void make_piece(Index i, Sink&& sink) const {
    const Index first = i * piece, last = first + piece_size(i);
    if (deviation_ == 0) {
      const double whole = initialization_.last - initialization_.first;
      const double step = count_ > 1 ? whole / static_cast<double>(count_ - 1) : 0;
      for (Index j = first; j < last; ++j) sink(initialization_.first + step * static_cast<double>(j));
      return;
    }
    static const NormalSampler normal;
    std::uint64_t seed = stream_ + static_cast<std::uint64_t>(i);
    Random random(splitmix64(seed));
    for (Index j = first; j < last; ++j) sink(deviation_ * normal(random));
  }

 private:
  Initialization initialization_;
  Index count_;
  std::uint64_t stream_;
  double deviation_ = 0;
};

/// Fills allocated weights with their initial values.
template <class Network, class B>
void initialize(Weights<Network, B>& weights, std::uint64_t seed) {
  for_each_parameter<Network>(weights.parameters, [&](std::string_view name, auto& handle, Initialization start) {
    using Element = typename std::remove_cvref_t<decltype(handle)>::Element;
    static_assert(
        requires { handle.data(); },
        "xlstm: quantised weights cannot be initialised; initialise in float and quantise the result");
    Element* next = handle.data();
    const InitialValues values(name, start, handle.count, Network::embedding_dim, Network::num_blocks, seed);
    for (Index i = 0; i < values.pieces(); ++i) {
      values.make_piece(i, [&](double value) { *next++ = static_cast<Element>(value); });
    }
  });
}

}  // namespace xlstm
