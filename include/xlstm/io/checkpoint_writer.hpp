// SPDX-License-Identifier: Apache-2.0
// Writes a checkpoint directory in the published format: model.safetensors, or shards with an index where it would be
// larger than a limit, and config.json. Data streams through; memory does not depend on the model's size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "xlstm/core/element.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/io/config.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/safetensors_writer.hpp"

namespace xlstm {

/// Bytes of tensor data in one file, as published checkpoints have it.
inline constexpr std::size_t default_shard_bytes = 5'000'000'000;

/// Writes one checkpoint: all tensors are declared first, then their data come in that order in pieces of any size.
///
/// Every file appears whole (see io::AtomicFile), the weights first, then the index, and config.json last: a directory
/// without config.json is no checkpoint, so one whose writing was killed is refused by Checkpoint::open ("… or one that
/// was not written to its end") and never mistaken for a model. Without finish(), an exception for instance, everything
/// written is removed again. A directory that already holds weights or a configuration is refused: a mixture of old and
/// new files could look complete.
class CheckpointWriter {
 public:
  /// Creates `directory` if need be. Tensors are put into shards in their order; one larger than `shard_bytes` gets a
  /// shard of its own. `dtype` and `quantization` are what config.json says. Throws Error before anything is written if
  /// a declaration is wrong or the directory cannot take a checkpoint.
  CheckpointWriter(std::filesystem::path directory, const ModelConfig& config, DType dtype,
                   std::vector<io::TensorDeclaration> tensors, const TokenIds& tokens = {},
                   WeightMode weight_mode = WeightMode::single, std::size_t shard_bytes = default_shard_bytes,
                   const std::optional<Quantization>& quantization = {})
      : directory_(std::move(directory)), config_json_(to_json(config, dtype, tokens, weight_mode, quantization)) {
    parse_checkpoint_config(config_json_, (directory_ / "config.json").native());
    divide(std::move(tensors), shard_bytes);
    refuse_existing();
    for (auto path = directory_; !path.empty() && !io::path_exists(path); path = path.parent_path()) {
      created_.push_back(path);
    }
    try {
      std::error_code error;
      std::filesystem::create_directories(directory_, error);
      if (error) io::fail_with_errno(directory_, "cannot be created", error.value());
      begin_shard();
    } catch (...) {
      remove_written();
      throw;
    }
  }
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter() {
    if (!finished_) remove_written();
  }

  /// The next bytes of `tensor`, which must be the one whose turn it is.
  void write(std::string_view tensor, std::span<const std::byte> piece) {
    if (piece.empty()) return;
    current(tensor).write(tensor, piece);
    advance();
  }
  /// The next values of `tensor`, converted to the type that it was declared with.
  void write_floats(std::string_view tensor, std::span<const float> values) {
    if (values.empty()) return;
    current(tensor).write_floats(tensor, values);
    advance();
  }

  /// Makes the directory a checkpoint.
  void finish() {
    if (writer_ != nullptr) writer_->finish();  // says which data is missing
    if (shards_.size() > 1) write_atomically("model.safetensors.index.json", index_json());
    write_atomically("config.json", config_json_);
    finished_ = true;
  }

 private:
  struct Shard {
    std::string file;
    std::vector<io::TensorDeclaration> tensors;
    std::size_t bytes = 0;
  };

  void divide(std::vector<io::TensorDeclaration> tensors, std::size_t shard_bytes) {
    std::set<std::string> names;
    shards_.emplace_back();
    for (io::TensorDeclaration& tensor : tensors) {
      const std::string where = io::printable(directory_.native()) + ": tensor \"" + io::printable(tensor.name) + '"';
      if (!names.insert(tensor.name).second) fail(where, " is declared twice");
      const auto count = io::element_count(tensor.shape, io::size_of(tensor.type));
      if (!count) fail(where, ": shape ", io::shape_text(tensor.shape), " is too large or negative");
      const std::size_t bytes = *count * io::size_of(tensor.type);
      if (!shards_.back().tensors.empty() && bytes > shard_bytes - std::min(shard_bytes, shards_.back().bytes)) {
        shards_.emplace_back();
      }
      shards_.back().bytes += bytes;
      shards_.back().tensors.push_back(std::move(tensor));
    }
    const auto number = [](std::size_t n) {
      const std::string digits = std::to_string(n);
      return std::string(5 - std::min<std::size_t>(5, digits.size()), '0') + digits;
    };
    for (std::size_t i = 0; i < shards_.size(); ++i) {
      shards_[i].file = shards_.size() == 1
                            ? "model.safetensors"
                            : "model-" + number(i + 1) + "-of-" + number(shards_.size()) + ".safetensors";
      io::safetensors_header(shards_[i].tensors, (directory_ / shards_[i].file).native(), {});  // throws if it can't be
    }
  }

  void refuse_existing() const {
    std::error_code error;
    if (!io::path_exists(directory_)) return;
    if (!std::filesystem::is_directory(directory_, error)) {
      fail(io::printable(directory_.native()), ": is not a directory");
    }
    for (const std::string& name : io::list_directory(directory_)) {
      const bool weights =
          name.starts_with("model") && (name.ends_with(".safetensors") || name == "model.safetensors.index.json");
      if (weights || name == "config.json" || name == "config.yaml") {
        fail(io::printable(directory_.native()), ": already holds ", io::printable(name),
             "; remove it or name another directory");
      }
    }
  }

  io::SafetensorsWriter& current(std::string_view tensor) {
    if (writer_ == nullptr) {
      fail(io::printable(directory_.native()), ": data for tensor \"", io::printable(tensor),
           "\" after the last tensor");
    }
    return *writer_;
  }

  void begin_shard() {
    Shard& shard = shards_[shard_];
    writer_ = std::make_unique<io::SafetensorsWriter>(directory_ / shard.file, shard.tensors);
    advance();
  }

  void advance() {
    if (writer_ == nullptr || !writer_->complete()) return;
    writer_->finish();
    writer_.reset();
    written_.push_back(directory_ / shards_[shard_].file);
    if (++shard_ < shards_.size()) begin_shard();
  }

  std::string index_json() const {
    nlohmann::json map = nlohmann::json::object();
    std::size_t total = 0;
    for (const Shard& shard : shards_) {
      total += shard.bytes;
      for (const auto& tensor : shard.tensors) map[tensor.name] = shard.file;
    }
    return nlohmann::json{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(map)}}.dump(2) + "\n";
  }

  void write_atomically(const char* name, const std::string& text) {
    io::AtomicFile file(directory_ / name);
    file.write(text);
    file.commit();
    written_.push_back(directory_ / name);
  }

  void remove_written() {
    writer_.reset();
    std::error_code ignored;
    for (const auto& path : written_) std::filesystem::remove(path, ignored);
    for (const auto& path : created_) std::filesystem::remove(path, ignored);  // only what is empty goes
  }

  std::filesystem::path directory_;
  std::string config_json_;
  std::vector<Shard> shards_;
  std::size_t shard_ = 0;
  std::unique_ptr<io::SafetensorsWriter> writer_;
  std::vector<std::filesystem::path> written_;
  std::vector<std::filesystem::path> created_;  // directories, the innermost first
  bool finished_ = false;
};

}  // namespace xlstm
