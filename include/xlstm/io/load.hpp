// SPDX-License-Identifier: Apache-2.0
// From a checkpoint directory to a model: parameters whose stored type is the backend's stay where the file is mapped,
// the others are converted, or quantised, into memory of their own.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "xlstm/core/element.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/cpu/quantize.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/model/model.hpp"
#include "xlstm/nn/quantized_weight.hpp"

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
    fail(io::printable(checkpoint.directory().native()), ": the checkpoint is not of the compiled size: ", list);
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

/// Where quantised parameters lie in the files: only if they have the format that the handle wants. Error for another.
template <QuantizedHandle Handle>
std::optional<QuantizedTensorRef> find_quantized(const Checkpoint& checkpoint, std::string_view name) {
  if (!checkpoint.is_quantized(name)) return std::nullopt;
  const QuantizedTensorRef tensor = checkpoint.quantized_tensor(name, Handle::rows, Handle::cols);
  constexpr Quantization wanted = quantization_of<typename Handle::Format>;
  const Quantization found = checkpoint.quantization(name);
  if (found != wanted) {
    fail(tensor.file, ": tensor \"", io::printable(tensor.name), "\" is quantised (", found.name(), " in groups of ",
         found.group_size, "), expected ", wanted.name(), " in groups of ", wanted.group_size, ", F32, F16 or BF16");
  }
  return tensor;
}

/// Rounds a plain tensor into a quantised handle that is bound to memory.
template <QuantizedHandle Handle, Executor Exec>
void quantize_tensor(Exec& exec, const TensorRef& tensor, Handle& handle) {
  const Index wrong = cpu::quantize_rows<typename Handle::Format>(
      exec, Handle::rows, Handle::cols,
      [&](Index r, float* row) {
        for (Index i = 0; i < Handle::cols; ++i) row[i] = load_element(tensor.dtype, tensor.data, r * Handle::cols + i);
      },
      handle.codes(), handle.scales());
  if (wrong >= 0) {
    fail(tensor.file, ": tensor \"", io::printable(tensor.name), "\" cannot be quantised: row ", wrong,
         " has a value that is not finite or above 1e30");
  }
}

/// Whether a parameter stays in the files, and the binding to where it lies there.
template <class Handle>
bool bind_in_place(const Checkpoint& checkpoint, std::string_view name, Handle& handle) {
  // Mapped privately: even a write would not reach the file.
  const auto memory = [](const std::byte* p) { return const_cast<std::byte*>(p); };
  if constexpr (QuantizedHandle<Handle>) {
    const auto tensor = find_quantized<Handle>(checkpoint, name);
    if (!tensor || !tensor->aligned()) return false;
    handle.bind(memory(tensor->codes), memory(tensor->scales));
  } else {
    const TensorRef tensor = find_tensor<Handle>(checkpoint, name);
    if (!usable_in_place<Handle>(tensor)) return false;
    handle.bind(memory(tensor.data));
  }
  return true;
}

/// Converts or copies a parameter into the memory that its handle is bound to.
template <class Handle, Executor Exec>
void convert(Exec& exec, const Checkpoint& checkpoint, std::string_view name, Handle& handle) {
  if constexpr (QuantizedHandle<Handle>) {
    if (const auto tensor = find_quantized<Handle>(checkpoint, name)) {
      std::memcpy(handle.codes(), tensor->codes, static_cast<std::size_t>(Handle::code_bytes));
      std::memcpy(handle.scales(), tensor->scales, static_cast<std::size_t>(Handle::scale_bytes));
    } else {
      quantize_tensor(exec, find_tensor<Handle>(checkpoint, name), handle);
    }
  } else {
    using Element = typename Handle::Element;
    const TensorRef tensor = find_tensor<Handle>(checkpoint, name);
    for (Index i = 0; i < Handle::count; ++i) {
      handle.data()[i] = static_cast<Element>(load_element(tensor.dtype, tensor.data, i));
    }
  }
}

template <class Options>
int threads_of(const Options& options) {
  if constexpr (requires { options.threads; }) return options.threads;
  return 0;
}

}  // namespace detail

/// The weights of a checkpoint; `threads` (0: every core) quantise what the backend wants quantised and the files have
/// not. Error if sizes differ or a tensor is missing, misshapen or of another type.
template <class Network, class B>
Weights<Network, B> load_weights(const Checkpoint& checkpoint, int threads = 0) {
  detail::check_configuration<Network>(checkpoint);
  Weights<Network, B> weights;
  weights.mapped = checkpoint.storage();
  Index bytes = 0;
  std::vector<std::string> converted;  // in the order of the visit
  for_each_parameter<Network>(weights.parameters, [&](std::string_view name, auto& handle, Initialization) {
    if (detail::bind_in_place(checkpoint, name, handle)) return;
    bytes += detail::padded<B>(handle.bytes);
    converted.emplace_back(name);
  });
  if (converted.empty()) return weights;
  weights.memory = AlignedMemory(bytes);
  std::byte* next = weights.memory.data();
  cpu::ThreadPool pool(threads);
  std::size_t done = 0;
  for_each_parameter<Network>(weights.parameters, [&](std::string_view name, auto& handle, Initialization) {
    if (done == converted.size() || converted[done] != name) return;
    ++done;
    handle.bind(next);
    next += detail::padded<B>(handle.bytes);
    detail::convert(pool, checkpoint, name, handle);
  });
  return weights;
}

template <class Network, Backend B>
Model<Network, B> Model<Network, B>::load(const std::filesystem::path& directory, const Options& options) {
  return load(Checkpoint::open(directory), options);
}

template <class Network, Backend B>
Model<Network, B> Model<Network, B>::load(const Checkpoint& checkpoint, const Options& options) {
  return Model(load_weights<Network, B>(checkpoint, detail::threads_of(options)), options);
}

}  // namespace xlstm
