// SPDX-License-Identifier: Apache-2.0
// A value of a JSON file together with where it stands, so that everything wrong with it can be said in one line:
// the file, the key, what was found, what was expected.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/json.hpp"
#include "xlstm/io/printable.hpp"

namespace xlstm {

/// Refers to a value of a document that outlives it.
class JsonField {
 public:
  JsonField(const nlohmann::json& value, std::string_view file, std::string path = {})
      : value_(&value), file_(file), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }
  std::string_view file() const { return file_; }
  bool is_null() const { return value_->is_null(); }
  bool is_string() const { return value_->is_string(); }
  bool is_array() const { return value_->is_array(); }
  Index size() const { return static_cast<Index>(value_->size()); }

  /// File and key, to begin a message.
  std::string where() const {
    return io::printable(file_) + ": " + (path_.empty() ? "the document" : io::printable(path_));
  }

  /// Throws an Error that names file, key and what was found.
  [[noreturn]] void fail_expected(std::string_view expected) const {
    fail(where(), " is ", io::json_kind(*value_), ", expected ", expected);
  }

  /// The member `key` of an object; nothing where it is missing or null.
  std::optional<JsonField> find(std::string_view key) const {
    if (!value_->is_object()) fail_expected("an object");
    const auto member = value_->find(key);
    if (member == value_->end() || member->is_null()) return std::nullopt;
    return JsonField(*member, file_, path_.empty() ? std::string(key) : path_ + "." + std::string(key));
  }

  /// The member `key` of an object. Error where it is missing or null.
  JsonField at(std::string_view key) const {
    if (auto member = find(key)) return *std::move(member);
    fail(io::printable(file_), ": ", path_.empty() ? "" : io::printable(path_) + ".", key, " is missing or null");
  }

  /// Element i of an array, 0 <= i < size().
  JsonField element(Index i) const {
    return {(*value_)[static_cast<std::size_t>(i)], file_, path_ + "[" + std::to_string(i) + "]"};
  }

  const JsonField& array() const {
    if (!value_->is_array()) fail_expected("an array");
    return *this;
  }
  const JsonField& object() const {
    if (!value_->is_object()) fail_expected("an object");
    return *this;
  }
  const std::string& string() const {
    if (!value_->is_string()) fail_expected("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) fail_expected("true or false");
    return value_->get<bool>();
  }
  /// A token's number.
  Token token() const {
    const bool fits = value_->is_number_unsigned() && value_->get<std::uint64_t>() <= 0x7fffffffU;
    if (!fits) fail_expected("an integer from 0 to 2147483647");
    return static_cast<Token>(value_->get<std::uint64_t>());
  }

  bool boolean_or(std::string_view key, bool otherwise) const {
    const auto member = find(key);
    return member ? member->boolean() : otherwise;
  }

 private:
  const nlohmann::json* value_;
  std::string_view file_;
  std::string path_;
};

}  // namespace xlstm
