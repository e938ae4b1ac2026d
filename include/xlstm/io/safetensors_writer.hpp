// SPDX-License-Identifier: Apache-2.0
// Writes safetensors (see safetensors.hpp) in one pass: names, types and shapes first, then the data in pieces, so that
// a file of any size takes no more memory than one piece.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/printable.hpp"
#include "xlstm/io/safetensors.hpp"

namespace xlstm::io {

/// What a tensor will be, before its data is there.
struct TensorDeclaration {
  std::string name;
  SafetensorsType type = SafetensorsType::f32;
  std::vector<Index> shape;
};

/// The header of a file with these tensors in this order, length prefix included. The data after it begins at a
/// multiple of 64 bytes (the header is padded with spaces; between tensors the format allows no padding). Throws Error
/// for a name that occurs twice or is not UTF-8, a shape too large, and an order in which an element would be
/// misaligned (declare wider types first).
inline std::string safetensors_header(std::span<const TensorDeclaration> tensors, std::string_view file,
                                      const std::map<std::string, std::string>& metadata) {
  constexpr std::size_t alignment = 64;
  const auto quoted = [&](std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = utf8_length(text, at);
      if (length == 0) fail(printable(file), ": name \"", printable(text), "\" is not UTF-8");
      at += length;
    }
    return nlohmann::json(text).dump();
  };

  std::string json = "{\"__metadata__\":{";
  for (const auto& [key, value] : metadata) {
    json += (json.back() == '{' ? "" : ",") + quoted(key) + ':' + quoted(value);
  }
  json += '}';
  std::set<std::string_view> names = {"__metadata__"};
  std::size_t offset = 0;
  for (const TensorDeclaration& tensor : tensors) {
    const std::string where = printable(file) + ": tensor \"" + printable(tensor.name) + '"';
    if (!names.insert(tensor.name).second) fail(where, " is declared twice");
    const auto count = element_count(tensor.shape, size_of(tensor.type));
    if (!count) fail(where, ": shape ", shape_text(tensor.shape), " is too large or negative");
    if (offset % size_of(tensor.type) != 0) {
      fail(where, " of type ", name_of(tensor.type), " would be misaligned; declare wider types first");
    }
    const std::size_t end = offset + *count * size_of(tensor.type);
    if (end > static_cast<std::size_t>(std::numeric_limits<Index>::max())) fail(where, ": the file is too large");
    json += ',' + quoted(tensor.name) + ":{\"dtype\":\"" + std::string(name_of(tensor.type)) + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i > 0) json += ',';
      json += std::to_string(tensor.shape[i]);
    }
    json += "],\"data_offsets\":[" + std::to_string(offset) + ',' + std::to_string(end) + "]}";
    offset = end;
  }
  json += '}';
  while ((safetensors_prefix + json.size()) % alignment != 0) json += ' ';
  if (json.size() > max_safetensors_header) fail(printable(file), ": the header is larger than the format allows");

  std::string header(safetensors_prefix, '\0');
  const auto length = static_cast<std::uint64_t>(json.size());
  std::memcpy(header.data(), &length, safetensors_prefix);
  return header + json;
}

/// Writes one file. The tensors' data come in the order of their declarations, each in pieces of any size; only
/// finish() makes the file appear (see AtomicFile). Wrong order or size, and whatever the disk says, is an Error.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorDeclaration> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}})
      : name_(printable(path.native())), tensors_(std::move(tensors)), file_(std::move(path)) {
    file_.write(safetensors_header(tensors_, name_, metadata));
    begin_tensor();
  }

  /// The next bytes of `tensor`, which must be the one whose turn it is.
  void write(std::string_view tensor, std::span<const std::byte> piece) {
    if (piece.empty()) return;
    if (complete()) fail(name_, ": data for tensor \"", printable(tensor), "\" after the last tensor");
    if (tensors_[current_].name != tensor) {
      fail(name_, ": data for tensor \"", printable(tensor), "\", expected ", missing_, " more bytes of tensor \"",
           printable(tensors_[current_].name), '"');
    }
    if (piece.size() > missing_) {
      fail(name_, ": ", piece.size(), " bytes for tensor \"", printable(tensor), "\", expected at most ", missing_);
    }
    file_.write(piece);
    missing_ -= piece.size();
    if (missing_ == 0) {
      ++current_;
      begin_tensor();
    }
  }

  /// The same for values of the tensor's type.
  template <class T, std::size_t Extent>
  void write(std::string_view tensor, std::span<const T, Extent> values) {
    write(tensor, std::span<const std::byte>(std::as_bytes(values)));
  }

  /// The same for values that are converted (rounded to nearest) to the tensor's type: F32, BF16 or F16.
  void write_floats(std::string_view tensor, std::span<const float> values) {
    if (complete() || tensors_[current_].name != tensor || tensors_[current_].type == SafetensorsType::f32) {
      return write(tensor, values);
    }
    const SafetensorsType type = tensors_[current_].type;
    if (type == SafetensorsType::bf16) return write_as<bf16>(tensor, values);
    if (type == SafetensorsType::f16) return write_as<f16>(tensor, values);
    fail(name_, ": tensor \"", printable(tensor), "\" is ", name_of(type), ", expected F32, BF16 or F16");
  }

  /// True when all data is there and only finish() is left.
  bool complete() const { return current_ == tensors_.size(); }

  /// Puts the complete file in its place.
  void finish() {
    if (!complete()) {
      fail(name_, ": ", missing_, " bytes of tensor \"", printable(tensors_[current_].name), "\" are missing");
    }
    file_.commit();
  }

 private:
  template <class T>
  void write_as(std::string_view tensor, std::span<const float> values) {
    std::array<T, 4096> piece;
    while (!values.empty()) {
      const std::size_t count = std::min(values.size(), piece.size());
      std::transform(values.begin(), values.begin() + static_cast<Index>(count), piece.begin(),
                     [](float value) { return T(value); });
      write(tensor, std::span<const T>(piece.data(), count));
      values = values.subspan(count);
    }
  }

  void begin_tensor() {
    for (; current_ < tensors_.size(); ++current_) {
      const TensorDeclaration& tensor = tensors_[current_];
      missing_ = *element_count(tensor.shape, size_of(tensor.type)) * size_of(tensor.type);
      if (missing_ > 0) return;
    }
  }

  std::string name_;
  std::vector<TensorDeclaration> tensors_;
  AtomicFile file_;
  std::size_t current_ = 0;
  std::size_t missing_ = 0;
};

}  // namespace xlstm::io
