// SPDX-License-Identifier: Apache-2.0
// A trainer's weights as a checkpoint in the published format, in the type in which the forward pass uses them, so that
// whoever loads it computes the same. An earlier export in the same directory is replaced: its weights at a stroke
// where the configuration stays as it is, otherwise so that no moment shows weights beside the configuration of others.
#pragma once

#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <vector>

#include "xlstm/core/element.hpp"
#include "xlstm/io/checkpoint_writer.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/nn/parameter.hpp"

namespace xlstm {

namespace detail {

/// Moves model.safetensors and config.json from one directory to another on the same disk.
inline void replace_checkpoint(const std::filesystem::path& from, const std::filesystem::path& to) {
  const auto move = [](const std::filesystem::path& source, const std::filesystem::path& target) {
    std::error_code error;
    std::filesystem::rename(source, target, error);
    if (error) io::fail_with_errno(target, "cannot be replaced", error.value());
  };
  const std::filesystem::path config = to / "config.json", replaced = from / "replaced-config.json";
  const bool exists = io::path_exists(config);
  if (exists && io::read_text_file(config) == io::read_text_file(from / "config.json")) {
    move(from / "model.safetensors", to / "model.safetensors");
    io::sync_directory(to);
    return;
  }
  // Each step is on the disk before the next one. A directory without config.json is no checkpoint.
  if (exists) move(config, replaced);
  try {
    io::sync_directory(to);
    move(from / "model.safetensors", to / "model.safetensors");
  } catch (...) {
    std::error_code ignored;
    if (exists) std::filesystem::rename(replaced, config, ignored);
    std::filesystem::remove_all(from, ignored);
    throw;
  }
  io::sync_directory(to);
  move(from / "config.json", config);
  io::sync_directory(to);
}

}  // namespace detail

/// Writes model.safetensors and config.json into `directory`, which may hold other files. `matrices`: the type that
/// fp32 weight matrices are rounded to; vectors stay as they are. Throws Error if that is impossible; then what was
/// there before is still there.
template <class Network, class Parameters>
void export_checkpoint(const std::filesystem::path& directory, const Parameters& parameters, const ModelConfig& config,
                       const TokenIds& tokens, DType matrices = DType::f32) {
  std::vector<io::TensorDeclaration> declarations;
  DType dtype = DType::f32;
  for_each_parameter<Network>(parameters, [&](std::string_view name, const auto& handle, Initialization) {
    using Element = typename std::remove_cvref_t<decltype(handle)>::Element;
    static_assert(std::is_same_v<Element, float> || std::is_same_v<Element, bf16> || std::is_same_v<Element, f16>,
                  "xlstm: the published format has weights in F32, BF16 or F16");
    const bool rounded = handle.is_matrix && std::is_same_v<Element, float>;
    const DType stored = rounded ? matrices : dtype_of<Element>;
    if (handle.is_matrix) dtype = stored;
    std::vector<Index> shape{handle.rows};
    if (handle.is_matrix) shape.push_back(handle.cols);
    declarations.push_back({std::string(name), io::safetensors_type(stored), std::move(shape)});
  });

  const std::filesystem::path unfinished = directory / ".export";
  std::error_code error;
  std::filesystem::remove_all(unfinished, error);
  CheckpointWriter writer(unfinished, config, dtype, declarations, tokens, WeightMode::single,
                          std::numeric_limits<std::size_t>::max());
  for_each_parameter<Network>(parameters, [&](std::string_view name, const auto& handle, Initialization) {
    const std::span values(handle.data(), static_cast<std::size_t>(handle.count));
    if constexpr (std::is_same_v<typename std::remove_cvref_t<decltype(handle)>::Element, float>) {
      writer.write_floats(name, values);
    } else {
      writer.write(name, std::as_bytes(values));
    }
  });
  writer.finish();
  detail::replace_checkpoint(unfinished, directory);
  std::filesystem::remove_all(unfinished, error);
}

}  // namespace xlstm
