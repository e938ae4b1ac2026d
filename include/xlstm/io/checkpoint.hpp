// SPDX-License-Identifier: Apache-2.0
// A checkpoint directory: the configuration (config.hpp) and all tensors of model.safetensors, or of the shards that
// model.safetensors.index.json lists, or of model_0.safetensors, model_1.safetensors, … (the original xLSTM-7B export).
// Opening maps the files and reads their headers; weights stay on the disk until somebody touches them.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <initializer_list>
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
#include "xlstm/core/index.hpp"
#include "xlstm/io/config.hpp"
#include "xlstm/io/safetensors.hpp"
#include "xlstm/io/tensor_names.hpp"

namespace xlstm {

/// A parameter's values where they lie: row-major, `dtype` elements, prod(shape) of them. The memory belongs to the
/// checkpoint's storage(); it is private to the process and writable, whatever is written there never reaches the file.
struct TensorRef {
  DType dtype = DType::f32;
  const std::byte* data = nullptr;
  std::vector<Index> shape;
  std::string file;  ///< path, for messages
  std::string name;  ///< of the tensor in the file, of which this may be some rows

  /// True if the elements may be used in place; files that others wrote need not align them.
  bool aligned() const { return reinterpret_cast<std::uintptr_t>(data) % size_of(dtype) == 0; }
};

/// A quantised parameter where it lies: codes (rows, row_bytes) and scales (rows, groups), bf16, all finite.
struct QuantizedTensorRef {
  const std::byte* codes = nullptr;
  const std::byte* scales = nullptr;
  std::string file;  ///< of the codes
  std::string name;  ///< of the codes; the scales' has ".scale" after it

  /// True if the scales may be used in place.
  bool aligned() const { return reinterpret_cast<std::uintptr_t>(scales) % sizeof(bf16) == 0; }
};

namespace io {

/// The name of the scales that belong to the codes of that name.
inline std::string scale_name(std::string_view codes) { return std::string(codes) + ".scale"; }

/// What a checkpoint's files hold; shared by all that still use its memory.
struct CheckpointStorage {
  struct Entry {
    const SafetensorsFile* file = nullptr;
    const SafetensorsTensor* tensor = nullptr;
  };
  std::deque<SafetensorsFile> files;  // a deque, so that entries may point into it
  std::map<std::string, Entry, std::less<>> tensors;

  const SafetensorsFile& add_file(const std::filesystem::path& path) {
    const SafetensorsFile& file = files.emplace_back(path);
    for (const auto& [name, tensor] : file.tensors()) {
      const auto [other, inserted] = tensors.try_emplace(name, Entry{&file, &tensor});
      if (!inserted) {
        fail(file.name(), ": tensor \"", printable(name), "\" is also in ", other->second.file->name());
      }
    }
    return file;
  }
};

/// The path of a shard that an index names: a file of the same directory and nothing else. Symbolic links may lead out
/// of it only as the hub's cache lays them out (snapshots/REVISION/NAME -> ../../blobs/HASH).
inline std::filesystem::path shard_path(const std::filesystem::path& directory, const std::string& name,
                                        const std::string& where) {
  if (name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos || !name.ends_with(".safetensors")) {
    fail(where, " names \"", printable(name), "\", expected a file NAME.safetensors of the same directory");
  }
  const std::filesystem::path path = directory / name;
  std::error_code error;
  const auto resolved = std::filesystem::canonical(path, error).parent_path();
  if (error) fail(where, " names \"", printable(name), "\", which cannot be opened: ", error.message());
  const auto home = std::filesystem::canonical(directory, error);
  if (resolved != home && resolved != home.parent_path().parent_path() / "blobs") {
    fail(where, " names \"", printable(name), "\", a symbolic link that leads out of the directory");
  }
  return path;
}

/// Adds the shards of an index ("weight_map": tensor to file). Index and shards must agree about every tensor.
inline void add_indexed_shards(CheckpointStorage& storage, const std::filesystem::path& index) {
  const std::string where = printable(index.native());
  const nlohmann::json json = parse_json(read_text_file(index, max_safetensors_header), index.native());
  const nlohmann::json* map = json.is_object() ? find_key(json, "weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) fail(where, ": weight_map is missing, expected an object of tensor to file");
  std::map<std::string, std::set<std::string>> shards;
  for (const auto& [tensor, file] : map->items()) {
    shards[json_string(file, where + ": weight_map \"" + printable(tensor) + '"')].insert(tensor);
  }
  if (shards.empty()) fail(where, ": weight_map is empty");
  for (const auto& [name, tensors] : shards) {
    const SafetensorsFile& file = storage.add_file(shard_path(index.parent_path(), name, where + ": weight_map"));
    for (const std::string& tensor : tensors) {
      if (file.find(tensor) == nullptr) {
        fail(where, ": tensor \"", printable(tensor), "\" is missing in ", file.name(), ", where the index has it");
      }
    }
    for (const auto& [tensor, unused] : file.tensors()) {
      if (!tensors.contains(tensor)) {
        fail(where, ": tensor \"", printable(tensor), "\" of ", file.name(), " is not in the index for that file");
      }
    }
  }
}

/// Adds model_0.safetensors, model_1.safetensors, …; a gap is an Error. False where there is none of them.
inline bool add_numbered_shards(CheckpointStorage& storage, const std::filesystem::path& directory) {
  std::set<unsigned long> numbers;
  for (const std::string& name : list_directory(directory)) {
    unsigned long number = 0;
    if (!name.starts_with("model_")) continue;
    const auto [end, status] = std::from_chars(name.data() + 6, name.data() + name.size(), number);
    if (status == std::errc() && std::string_view(end) == ".safetensors") numbers.insert(number);
  }
  unsigned long next = 0;
  for (const unsigned long number : numbers) {
    if (number != next) {
      fail(printable(directory.native()), ": model_", next, ".safetensors is missing, but there is model_", number,
           ".safetensors");
    }
    storage.add_file(directory / ("model_" + std::to_string(next++) + ".safetensors"));
  }
  return next > 0;
}

}  // namespace io

/// An opened checkpoint: cheap to copy, safe to use from many threads. Its tensors' memory lives as long as the
/// checkpoint, a copy of it, or storage().
class Checkpoint {
 public:
  /// Opens a directory; time and memory depend on the number of tensors, not on their size. Throws Error for whatever
  /// is missing, malformed or contradictory, but not for tensors that a model needs or does not know: see tensor() and
  /// unused().
  static Checkpoint open(const std::filesystem::path& directory) {
    if (directory.empty()) fail("Checkpoint::open: the name is empty, expected a checkpoint's directory");
    Checkpoint checkpoint;
    checkpoint.directory_ = directory;
    checkpoint.config_ = load_checkpoint_config(directory);
    auto storage = std::make_shared<io::CheckpointStorage>();
    if (io::path_exists(directory / "model.safetensors")) {
      storage->add_file(directory / "model.safetensors");
    } else if (io::path_exists(directory / "model.safetensors.index.json")) {
      io::add_indexed_shards(*storage, directory / "model.safetensors.index.json");
    } else if (!io::add_numbered_shards(*storage, directory)) {
      fail(io::printable(directory.native()),
           ": holds neither model.safetensors nor model.safetensors.index.json nor model_0.safetensors");
    }
    checkpoint.storage_ = std::move(storage);
    return checkpoint;
  }

  const std::filesystem::path& directory() const { return directory_; }
  const ModelConfig& config() const { return config_.model; }
  const TokenIds& tokens() const { return config_.tokens; }
  WeightMode weight_mode() const { return config_.weight_mode; }
  /// The format of the quantised tensors but the head; nothing if there are none.
  const std::optional<Quantization>& quantization() const { return config_.quantization; }
  /// The format of a parameter that is_quantized().
  Quantization quantization(std::string_view canonical_name) const {
    const Quantization format = config_.quantization.value();
    return canonical_name == "lm_head.weight" ? format.head() : format;
  }

  /// Keeps the mapped memory alive.
  std::shared_ptr<const io::CheckpointStorage> storage() const { return storage_; }

  /// Every tensor of the files by its name there.
  const auto& tensors() const { return storage_->tensors; }

  /// The parameter of that canonical name: the tensor itself, its alias in the original export, its rows of a fused
  /// tensor, or, for lm_head.weight with tied embeddings, the embedding. Throws Error if it is nowhere (naming all
  /// names tried), of another shape, or not F32, F16 or BF16.
  TensorRef tensor(std::string_view canonical_name, std::span<const Index> expected_shape) const {
    const auto places = io::tensor_places(canonical_name, config_.model);
    const io::TensorPlace* place = find_place(places);
    if (place == nullptr) {
      std::string tried;
      for (const auto& p : places) tried += (tried.empty() ? "\"" : ", \"") + io::printable(p.name) + '"';
      fail(io::printable(directory_.native()), ": tensor \"", io::printable(canonical_name),
           "\" is missing (looked for ", tried, ")");
    }
    const auto& [file, stored] = storage_->tensors.find(place->name)->second;
    const std::string where = file->name() + ": tensor \"" + io::printable(place->name) + '"';
    if (is_quantized(canonical_name)) {
      fail(where, " is quantised (", quantized_as(quantization(canonical_name)),
           "), expected F32, F16 or BF16; load these weights as ", config_.quantization->name());
    }
    std::vector<Index> whole(expected_shape.begin(), expected_shape.end());
    if (place->total_rows > 0 && !whole.empty()) whole[0] = place->total_rows;
    if (stored->shape != whole) {
      fail(where, " has the shape ", io::printable(io::shape_text(stored->shape)), ", expected ",
           io::shape_text(whole));
    }
    const auto dtype = io::weight_type(stored->type);
    if (!dtype) fail(where, " is ", io::name_of(stored->type), ", expected F32, F16 or BF16");

    TensorRef ref;
    ref.dtype = *dtype;
    ref.data = stored->bytes.data();
    ref.shape.assign(expected_shape.begin(), expected_shape.end());
    ref.file = file->name();
    ref.name = place->name;
    if (place->total_rows > 0 && !ref.shape.empty()) {
      if (ref.shape[0] > place->total_rows - place->first_row) {
        fail(where, " has no ", ref.shape[0], " rows from row ", place->first_row, " on, as \"",
             io::printable(canonical_name), "\" of shape ", io::shape_text(ref.shape), " would need");
      }
      const std::size_t row_bytes = stored->bytes.size() / static_cast<std::size_t>(place->total_rows);
      ref.data += static_cast<std::size_t>(place->first_row) * row_bytes;
    }
    return ref;
  }
  TensorRef tensor(std::string_view canonical_name, std::initializer_list<Index> expected_shape) const {
    return tensor(canonical_name, std::span<const Index>(expected_shape.begin(), expected_shape.size()));
  }

  /// Whether that parameter is there in the format quantization().
  bool is_quantized(std::string_view canonical_name) const {
    if (!config_.quantization) return false;
    const auto found = storage_->tensors.find(stored_name(canonical_name));
    if (found == storage_->tensors.end()) return false;
    const io::SafetensorsType type = found->second.tensor->type;
    return type == io::SafetensorsType::i8 || type == io::SafetensorsType::u8;
  }

  /// A parameter (rows, cols) that is_quantized(). Throws Error for codes or scales that are missing, misshapen, of
  /// another type, or not finite.
  QuantizedTensorRef quantized_tensor(std::string_view canonical_name, Index rows, Index cols) const {
    const Quantization format = quantization(canonical_name);
    const auto places = io::tensor_places(canonical_name, config_.model);
    const io::TensorPlace* place = find_place(places);
    const std::string name = place == nullptr ? std::string(canonical_name) : place->name;
    if (place != nullptr && place->total_rows > 0) {
      fail(io::printable(directory_.native()), ": tensor \"", io::printable(name),
           "\" is quantised and stacked, expected one tensor for \"", io::printable(canonical_name), '"');
    }
    const auto& codes = checked(format, name, format.bits == 8 ? io::SafetensorsType::i8 : io::SafetensorsType::u8,
                                {rows, format.row_bytes(cols)});
    const auto& scales = checked(format, io::scale_name(name), io::SafetensorsType::bf16, {rows, format.groups(cols)});
    for (std::size_t i = 0; i < scales.tensor->bytes.size(); i += sizeof(bf16)) {
      std::uint16_t bits;
      std::memcpy(&bits, scales.tensor->bytes.data() + i, sizeof bits);
      if ((bits & 0x7f80U) == 0x7f80U) {
        fail(scales.file->name(), ": tensor \"", io::printable(io::scale_name(name)), "\" holds ",
             static_cast<float>(bf16::from_bits(bits)), " at ", i / sizeof(bf16), ", expected a finite scale");
      }
    }
    return {codes.tensor->bytes.data(), scales.tensor->bytes.data(), codes.file->name(), name};
  }

  /// The name under which the files hold that parameter, in whole or as rows; empty where they do not.
  std::string stored_name(std::string_view canonical_name) const {
    const auto places = io::tensor_places(canonical_name, config_.model);
    const io::TensorPlace* place = find_place(places);
    return place == nullptr ? std::string() : place->name;
  }

  /// The tensors that none of these parameters is taken from, sorted.
  std::vector<std::string> unused(std::span<const std::string> canonical_names) const {
    std::set<std::string> names;
    for (const auto& [name, entry] : storage_->tensors) names.insert(name);
    for (const std::string& name : canonical_names) {
      const std::string stored = stored_name(name);
      names.erase(stored);
      if (config_.quantization) names.erase(io::scale_name(stored));
    }
    return {names.begin(), names.end()};
  }

 private:
  Checkpoint() = default;

  static std::string quantized_as(const Quantization& format) {
    return std::string(format.name()) + " in groups of " + std::to_string(format.group_size);
  }

  /// The tensor of that name, of that type and shape.
  const io::CheckpointStorage::Entry& checked(const Quantization& format, const std::string& name,
                                              io::SafetensorsType type, const std::vector<Index>& shape) const {
    const auto found = storage_->tensors.find(name);
    if (found == storage_->tensors.end()) {
      fail(io::printable(directory_.native()), ": tensor \"", io::printable(name), "\" is missing, expected for ",
           quantized_as(format));
    }
    const auto& [file, stored] = found->second;
    if (stored->type != type || stored->shape != shape) {
      fail(file->name(), ": tensor \"", io::printable(name), "\" is ", io::name_of(stored->type), ' ',
           io::printable(io::shape_text(stored->shape)), ", expected ", io::name_of(type), ' ', io::shape_text(shape),
           " for ", quantized_as(format));
    }
    return found->second;
  }

  const io::TensorPlace* find_place(const std::vector<io::TensorPlace>& places) const {
    const auto found = std::find_if(places.begin(), places.end(),
                                    [&](const io::TensorPlace& p) { return storage_->tensors.contains(p.name); });
    return found == places.end() ? nullptr : &*found;
  }

  std::filesystem::path directory_;
  CheckpointConfig config_;
  std::shared_ptr<const io::CheckpointStorage> storage_;
};

}  // namespace xlstm
