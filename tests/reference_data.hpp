// SPDX-License-Identifier: Apache-2.0
// Reads the reference cases of tests/data/cell as arrays of doubles: files that we trust, so nothing is checked but
// that they are there. The reader for files from outside is xlstm/io/safetensors.hpp.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "xlstm/core/error.hpp"

namespace xlstm::tests {

/// The tensors of one file by name.
class ReferenceData {
 public:
  /// `name` as in "cell/plain".
  explicit ReferenceData(const std::string& name) {
    const std::string path = std::string(XLSTM_TEST_DATA) + "/" + name + ".safetensors";
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(path, ": not there, expected a reference case");
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    std::uint64_t header_size = 0;
    std::memcpy(&header_size, bytes.data(), 8);
    const char* data = bytes.data() + 8 + header_size;
    const auto header = nlohmann::json::parse(bytes.substr(8, header_size));
    for (const auto& [key, entry] : header.items()) {
      if (key == "__metadata__") {
        metadata_ = entry.get<std::map<std::string, std::string>>();
        continue;
      }
      const auto begin = entry["data_offsets"][0].get<std::size_t>();
      const auto end = entry["data_offsets"][1].get<std::size_t>();
      tensors_[key] = entry["dtype"] == "F64"   ? convert<double>(data + begin, end - begin)
                      : entry["dtype"] == "F32" ? convert<float>(data + begin, end - begin)
                      : entry["dtype"] == "I32" ? convert<std::int32_t>(data + begin, end - begin)
                                                : convert<std::uint8_t>(data + begin, end - begin);
    }
  }

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  const std::vector<double>& operator[](const std::string& name) const { return tensors_.at(name); }
  double number(const std::string& key) const { return std::stod(metadata_.at(key)); }

 private:
  template <class T>
  static std::vector<double> convert(const char* data, std::size_t size) {
    std::vector<T> values(size / sizeof(T));
    std::memcpy(values.data(), data, values.size() * sizeof(T));
    return {values.begin(), values.end()};
  }

  std::map<std::string, std::vector<double>> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace xlstm::tests
