// SPDX-License-Identifier: Apache-2.0
// safetensors (github.com/huggingface/safetensors): u64 little-endian length of the header, the header as JSON
// {name: {dtype, shape, data_offsets: [begin, end)}}, optionally with "__metadata__" of strings, and the data, which
// the tensors cover without holes or overlaps. Every number in a header is checked before it is used.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "xlstm/core/element.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/file.hpp"
#include "xlstm/io/json.hpp"
#include "xlstm/io/printable.hpp"

namespace xlstm::io {

static_assert(std::endian::native == std::endian::little,
              "xlstm: safetensors files are little-endian and are used as they lie in memory; this machine is not");

/// The element types of the format.
enum class SafetensorsType { boolean, u8, i8, f8_e5m2, f8_e4m3, i16, u16, f16, bf16, i32, u32, f32, f64, i64, u64 };

/// Name in the file and bytes per element, in the order of SafetensorsType.
struct SafetensorsTypeInfo {
  std::string_view name;
  std::size_t size;
};
inline constexpr std::array<SafetensorsTypeInfo, 15> safetensors_types = {{{"BOOL", 1},
                                                                           {"U8", 1},
                                                                           {"I8", 1},
                                                                           {"F8_E5M2", 1},
                                                                           {"F8_E4M3", 1},
                                                                           {"I16", 2},
                                                                           {"U16", 2},
                                                                           {"F16", 2},
                                                                           {"BF16", 2},
                                                                           {"I32", 4},
                                                                           {"U32", 4},
                                                                           {"F32", 4},
                                                                           {"F64", 8},
                                                                           {"I64", 8},
                                                                           {"U64", 8}}};

constexpr std::string_view name_of(SafetensorsType type) {
  return safetensors_types[static_cast<std::size_t>(type)].name;
}
constexpr std::size_t size_of(SafetensorsType type) { return safetensors_types[static_cast<std::size_t>(type)].size; }

/// A weight's type as a type of the format.
constexpr SafetensorsType safetensors_type(DType type) {
  return type == DType::f32 ? SafetensorsType::f32 : type == DType::bf16 ? SafetensorsType::bf16 : SafetensorsType::f16;
}
/// The other way; nothing where the format's type is not one that weights may have.
constexpr std::optional<DType> weight_type(SafetensorsType type) {
  if (type == SafetensorsType::f32) return DType::f32;
  if (type == SafetensorsType::bf16) return DType::bf16;
  if (type == SafetensorsType::f16) return DType::f16;
  return std::nullopt;
}

/// "(3, 64)", for messages.
inline std::string shape_text(std::span<const Index> shape) {
  std::string text = "(";
  for (const Index extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + ")";
}

/// Number of elements, or nothing where it, times `element_size`, is more than memory can hold.
inline std::optional<std::size_t> element_count(std::span<const Index> shape, std::size_t element_size) {
  const std::size_t most = static_cast<std::size_t>(std::numeric_limits<Index>::max()) / element_size;
  std::size_t count = 1;
  for (const Index extent : shape) {
    if (extent < 0) return std::nullopt;
    const auto factor = static_cast<std::size_t>(extent);
    if (factor != 0 && count > most / factor) return std::nullopt;
    count *= factor;
  }
  return count;
}

/// One tensor of a file. `bytes` points into the file's memory and has exactly the size that shape and type demand;
/// it is aligned to the element only as far as whoever wrote the file took care.
struct SafetensorsTensor {
  SafetensorsType type = SafetensorsType::f32;
  std::vector<Index> shape;
  std::span<const std::byte> bytes;
};

struct SafetensorsHeader {
  std::map<std::string, SafetensorsTensor, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;
};

/// The format's own limit on the header.
inline constexpr std::size_t max_safetensors_header = 100'000'000;

/// Bytes before the header: its length.
inline constexpr std::size_t safetensors_prefix = 8;

inline SafetensorsType parse_safetensors_type(const nlohmann::json& value, std::string_view where) {
  const std::string& name = json_string(value, where);
  for (std::size_t i = 0; i < safetensors_types.size(); ++i) {
    if (safetensors_types[i].name == name) return static_cast<SafetensorsType>(i);
  }
  std::string known;
  for (const auto& type : safetensors_types) known += (known.empty() ? "" : ", ") + std::string(type.name);
  fail(where, " is \"", printable(name), "\", expected one of ", known);
}

/// One entry of the header. `data` is all that follows the header; `where` names file and tensor.
inline SafetensorsTensor parse_safetensors_entry(const nlohmann::json& entry, std::span<const std::byte> data,
                                                 const std::string& where) {
  if (!entry.is_object()) fail(where, " is ", json_kind(entry), ", expected an object");
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") fail(where, ": unknown key \"", printable(key), '"');
  }
  const auto required = [&](const char* key) -> const nlohmann::json& {
    const nlohmann::json* value = find_key(entry, key);
    if (value == nullptr) fail(where, ": ", key, " is missing");
    return *value;
  };
  const auto array = [&](const char* key) -> const nlohmann::json& {
    const nlohmann::json& value = required(key);
    if (!value.is_array()) fail(where, ": ", key, " is ", json_kind(value), ", expected an array");
    return value;
  };

  SafetensorsTensor tensor;
  tensor.type = parse_safetensors_type(required("dtype"), where + ": dtype");
  constexpr Index most = std::numeric_limits<Index>::max();
  for (const auto& extent : array("shape")) tensor.shape.push_back(json_integer(extent, where + ": shape", 0, most));
  const auto count = element_count(tensor.shape, size_of(tensor.type));
  if (!count) fail(where, ": shape ", printable(shape_text(tensor.shape)), " is too large");

  const nlohmann::json& offsets = array("data_offsets");
  if (offsets.size() != 2) fail(where, ": data_offsets has ", offsets.size(), " entries, expected 2");
  const auto begin = static_cast<std::size_t>(json_integer(offsets[0], where + ": data_offsets", 0, most));
  const auto end = static_cast<std::size_t>(json_integer(offsets[1], where + ": data_offsets", 0, most));
  if (begin > end) fail(where, ": data_offsets [", begin, ", ", end, "] are reversed");
  if (end > data.size()) {
    fail(where, ": data_offsets [", begin, ", ", end, "] reach beyond the file, which has ", data.size(),
         " bytes of data");
  }
  const std::size_t expected = *count * size_of(tensor.type);
  if (end - begin != expected) {
    fail(where, ": data_offsets [", begin, ", ", end, "] span ", end - begin, " bytes, expected ", expected, " for ",
         name_of(tensor.type), ' ', printable(shape_text(tensor.shape)));
  }
  tensor.bytes = data.subspan(begin, expected);
  return tensor;
}

/// An Error unless the tensors cover `data` without holes and overlaps.
inline void check_safetensors_coverage(const SafetensorsHeader& header, std::span<const std::byte> data,
                                       const std::string& file) {
  struct Range {
    std::size_t begin;
    std::size_t end;
    std::string_view name;
  };
  std::vector<Range> ranges;
  ranges.reserve(header.tensors.size());
  for (const auto& [name, tensor] : header.tensors) {
    const auto begin = static_cast<std::size_t>(tensor.bytes.data() - data.data());
    ranges.push_back({begin, begin + tensor.bytes.size(), name});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::size_t covered = 0;
  std::string_view previous;
  for (const Range& range : ranges) {
    if (range.begin < covered) {
      fail(file, ": tensor \"", printable(range.name), "\" begins at ", range.begin, " and overlaps tensor \"",
           printable(previous), "\", which ends at ", covered);
    }
    if (range.begin > covered) {
      fail(file, ": no tensor covers the data from ", covered, " to ", range.begin, ", where tensor \"",
           printable(range.name), "\" begins");
    }
    covered = range.end;
    previous = range.name;
  }
  if (covered != data.size()) {
    fail(file, ": the tensors cover ", covered, " bytes of data, but the file has ", data.size());
  }
}

/// The header of a whole file in memory; `name` begins every message. The tensors' bytes point into `file`.
/// Throws Error for everything that the format does not allow; reads nothing outside `file`.
inline SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view name) {
  const std::string where = printable(name);
  if (file.size() < safetensors_prefix) {
    fail(where, ": has ", file.size(), " bytes, too few for a safetensors file (expected at least 8)");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), safetensors_prefix);
  if (length == 0) fail(where, ": header length is 0, expected a JSON object");
  if (length > max_safetensors_header) {
    fail(where, ": header length is ", length, ", expected at most ", max_safetensors_header,
         "; is this a safetensors file?");
  }
  if (length > file.size() - safetensors_prefix) {
    fail(where, ": header length is ", length, ", but only ", file.size() - safetensors_prefix,
         " bytes follow; the file is cut off");
  }
  const auto* text = reinterpret_cast<const char*>(file.data()) + safetensors_prefix;
  const std::string in_header = where + ": header";
  if (*text != '{') fail(in_header, " does not begin with {; is this a safetensors file?");
  const nlohmann::json json = parse_json({text, static_cast<std::size_t>(length)}, in_header);

  const auto data = file.subspan(safetensors_prefix + static_cast<std::size_t>(length));
  SafetensorsHeader header;
  for (const auto& [key, value] : json.items()) {
    if (key == "__metadata__") {
      if (!value.is_object()) fail(where, ": __metadata__ is ", json_kind(value), ", expected an object of strings");
      for (const auto& [entry, text_value] : value.items()) {
        header.metadata[entry] = json_string(text_value, where + ": __metadata__ \"" + printable(entry) + '"');
      }
    } else {
      header.tensors.emplace(key, parse_safetensors_entry(value, data, where + ": tensor \"" + printable(key) + '"'));
    }
  }
  check_safetensors_coverage(header, data, where);
  return header;
}

/// A safetensors file in memory (mapped, see MappedFile).
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path, AccessPattern pattern = AccessPattern::normal)
      : file_(path, pattern), header_(parse_safetensors_header(file_.bytes(), file_.name())) {}

  const std::string& name() const { return file_.name(); }
  const MappedFile& file() const { return file_; }
  const auto& tensors() const { return header_.tensors; }
  const auto& metadata() const { return header_.metadata; }

  /// The tensor of that name, or nullptr.
  const SafetensorsTensor* find(std::string_view tensor) const {
    const auto found = header_.tensors.find(tensor);
    return found == header_.tensors.end() ? nullptr : &found->second;
  }

  /// The tensor of that name; an Error if there is none.
  const SafetensorsTensor& at(std::string_view tensor) const {
    const SafetensorsTensor* found = find(tensor);
    if (found == nullptr) fail(name(), ": tensor \"", printable(tensor), "\" is missing");
    return *found;
  }

  /// All elements of a tensor as T, row-major. Floating T reads F64, F32, BF16 and F16; integral T reads every integer
  /// type of the format, each value checked to fit. An Error for every other type and for a missing tensor.
  template <class T>
  std::vector<T> read(std::string_view tensor) const {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>, "xlstm: tensors are read as numbers");
    const SafetensorsTensor& source = at(tensor);
    std::vector<T> values(source.bytes.size() / size_of(source.type));
    switch (source.type) {
      case SafetensorsType::f64:
        convert<double>(source, values, tensor);
        return values;
      case SafetensorsType::f32:
        convert<float>(source, values, tensor);
        return values;
      case SafetensorsType::bf16:
        convert<bf16>(source, values, tensor);
        return values;
      case SafetensorsType::f16:
        convert<f16>(source, values, tensor);
        return values;
      case SafetensorsType::u8:
        convert<std::uint8_t>(source, values, tensor);
        return values;
      case SafetensorsType::i8:
        convert<std::int8_t>(source, values, tensor);
        return values;
      case SafetensorsType::u16:
        convert<std::uint16_t>(source, values, tensor);
        return values;
      case SafetensorsType::i16:
        convert<std::int16_t>(source, values, tensor);
        return values;
      case SafetensorsType::u32:
        convert<std::uint32_t>(source, values, tensor);
        return values;
      case SafetensorsType::i32:
        convert<std::int32_t>(source, values, tensor);
        return values;
      case SafetensorsType::u64:
        convert<std::uint64_t>(source, values, tensor);
        return values;
      case SafetensorsType::i64:
        convert<std::int64_t>(source, values, tensor);
        return values;
      default:
        refuse(source, tensor, "a number type");
    }
  }

 private:
  template <class Stored, class T>
  void convert(const SafetensorsTensor& source, std::vector<T>& values, std::string_view tensor) const {
    if constexpr (std::is_integral_v<Stored> != std::is_integral_v<T>) {
      refuse(source, tensor, std::is_integral_v<T> ? "an integer type" : "F64, F32, BF16 or F16");
    } else {
      for (std::size_t i = 0; i < values.size(); ++i) {
        Stored stored;
        std::memcpy(&stored, source.bytes.data() + i * sizeof(Stored), sizeof(Stored));
        if constexpr (std::is_integral_v<T>) {
          if (!std::in_range<T>(stored)) {
            fail(name(), ": tensor \"", printable(tensor), "\" holds ", +stored, " at ", i, ", expected ",
                 +std::numeric_limits<T>::min(), " to ", +std::numeric_limits<T>::max());
          }
        }
        values[i] = static_cast<T>(stored);
      }
    }
  }
  [[noreturn]] void refuse(const SafetensorsTensor& source, std::string_view tensor, std::string_view expected) const {
    fail(name(), ": tensor \"", printable(tensor), "\" is ", name_of(source.type), ", expected ", expected);
  }

  MappedFile file_;
  SafetensorsHeader header_;
};

}  // namespace xlstm::io
