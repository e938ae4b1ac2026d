// SPDX-License-Identifier: Apache-2.0
// From a checkpoint directory to a model: parameters whose stored type is the backend's stay where the file is mapped,
// the others are converted into memory of their own.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "xlstm/core/element.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/model/model.hpp"

namespace xlstm {

namespace detail {

template <class Network>
concept ConfiguredByValue = requires {
  Network::config;
};

/// Error that names every size in which a checkpoint differs from the compiled configuration.
template <class Network>
void check_configuration(const Checkpoint& checkpoint) {
  if constexpr (ConfiguredByValue<Network>) {
    const std::vector<std::string> found = differences(checkpoint.config(), Network::config);
    if (found.empty()) return;
    std::string list;
    for (const std::string& difference : found) list += (list.empty() ? "" : "; ") + difference;
    fail(checkpoint.directory().string(), ": the checkpoint is not of the compiled size: ", list);
  }
}

template <class Handle>
TensorRef find_tensor(const Checkpoint& checkpoint, std::string_view name) {
  if constexpr (Handle::is_matrix) {
    return checkpoint.tensor(name, std::array<Index, 2>{Handle::rows, Handle::cols});
  } else {
    return checkpoint.tensor(name, std::array<Index, 1>{Handle::count});
  }
}

/// Whether a tensor can be used where it lies.
template <class Handle>
bool usable_in_place(const TensorRef& tensor) {
  using Element = typename Handle::Element;
  if constexpr (std::is_same_v<Element, float> || std::is_same_v<Element, bf16> || std::is_same_v<Element, f16>) {
    return tensor.dtype == dtype_of<Element> && reinterpret_cast<std::uintptr_t>(tensor.data) % alignof(Element) == 0;
  } else {
    return false;
  }
}

}  // namespace detail

/// The weights of a checkpoint. Error if sizes differ or a tensor is missing, misshapen or of another type.
template <class Network, class B>
Weights<Network, B> load_weights(const Checkpoint& checkpoint) {
  detail::check_configuration<Network>(checkpoint);
  Weights<Network, B> weights;
  weights.mapped = checkpoint.storage();
  Index bytes = 0;
  for_each_parameter<Network>(weights.parameters, [&](std::string_view name, auto& handle, Initialization) {
    using Handle = std::remove_cvref_t<decltype(handle)>;
    const TensorRef tensor = detail::find_tensor<Handle>(checkpoint, name);
    if (!detail::usable_in_place<Handle>(tensor)) bytes += detail::padded(Handle::bytes);
  });
  weights.memory = AlignedMemory(bytes);
  std::byte* next = weights.memory.data();
  for_each_parameter<Network>(weights.parameters, [&](std::string_view name, auto& handle, Initialization) {
    using Handle = std::remove_cvref_t<decltype(handle)>;
    using Element = typename Handle::Element;
    const TensorRef tensor = detail::find_tensor<Handle>(checkpoint, name);
    if (detail::usable_in_place<Handle>(tensor)) {
      handle.bind(const_cast<std::byte*>(tensor.data));  // mapped privately: even a write would not reach the file
      return;
    }
    handle.bind(next);
    next += detail::padded(Handle::bytes);
    for (Index i = 0; i < Handle::count; ++i) {
      handle.data()[i] = static_cast<Element>(load_element(tensor.dtype, tensor.data, i));
    }
  });
  return weights;
}

template <class Network, Backend B>
Model<Network, B> Model<Network, B>::load(const std::filesystem::path& directory, const Options& options) {
  return Model(load_weights<Network, B>(Checkpoint::open(directory)), options);
}

}  // namespace xlstm
