// SPDX-License-Identifier: Apache-2.0
// JSON (RFC 8259) from files that nobody vouches for: a key that occurs twice, deep nesting and bytes that are not
// UTF-8 are errors here, and a value of the wrong type is named together with its key.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/io/printable.hpp"

namespace xlstm::io {

/// Arrays and objects may be nested this deep.
inline constexpr std::size_t max_json_depth = 64;

/// A document may hold this many values; bounds the memory that a hostile one takes (to about 1 GB).
inline constexpr std::size_t max_json_values = std::size_t{1} << 23;

/// Builds the document from the parser's events; nlohmann's own builder keeps one of two equal keys silently.
class JsonBuilder {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  explicit JsonBuilder(std::string_view name) : name_(name) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(number_integer_t value) { return add(value); }
  bool number_unsigned(number_unsigned_t value) { return add(value); }
  bool number_float(number_float_t value, const string_t&) { return add(value); }
  bool string(string_t& value) { return add(std::move(value)); }
  bool binary(binary_t&) { return false; }
  bool start_object(std::size_t) { return open(nlohmann::json::object()); }
  bool end_object() { return close(); }
  bool start_array(std::size_t) { return open(nlohmann::json::array()); }
  bool end_array() { return close(); }

  bool key(string_t& value) {
    if (open_.back()->contains(value)) {
      fail(printable(name_), ": key \"", printable(value), "\" occurs twice in one object");
    }
    key_ = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
    std::string_view reason = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: …"
    if (const auto end = reason.find("] "); end != std::string_view::npos) reason.remove_prefix(end + 2);
    fail(printable(name_), ": not valid JSON (byte ", position, "): ", printable(reason));
  }

  nlohmann::json take() { return std::move(root_); }

 private:
  nlohmann::json* place(nlohmann::json&& value) {
    if (++values_ > max_json_values) fail(printable(name_), ": JSON of more than ", max_json_values, " values");
    if (open_.empty()) return &(root_ = std::move(value));
    nlohmann::json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool add(nlohmann::json&& value) {
    place(std::move(value));
    return true;
  }
  bool open(nlohmann::json&& value) {
    if (open_.size() == max_json_depth) {
      fail(printable(name_), ": JSON nested deeper than ", max_json_depth, " levels");
    }
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view name_;
  nlohmann::json root_;
  std::vector<nlohmann::json*> open_;
  std::string key_;
  std::size_t values_ = 0;
};

/// The document in `text`; `name` (a file) begins every message. Throws Error with line, column and byte for what is
/// not JSON or not UTF-8, and for a key that occurs twice in an object, nesting deeper than max_json_depth and more
/// values than max_json_values.
inline nlohmann::json parse_json(std::string_view text, std::string_view name) {
  JsonBuilder builder(name);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

/// What `value` is, for messages: "a string", "an object", "the number -3", …
inline std::string json_kind(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::null:
      return "null";
    case nlohmann::json::value_t::object:
      return "an object";
    case nlohmann::json::value_t::array:
      return "an array";
    case nlohmann::json::value_t::string:
      return "the string \"" + printable(value.get_ref<const std::string&>(), 60) + '"';
    case nlohmann::json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    default:
      return "the number " + printable(value.dump(), 60);
  }
}

/// `object[key]`, or nullptr where the key is missing.
inline const nlohmann::json* find_key(const nlohmann::json& object, const std::string& key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

/// `value` as an integer in [least, most]; `where` (file and key) begins the message.
inline Index json_integer(const nlohmann::json& value, std::string_view where, Index least, Index most) {
  const auto wrong = [&]() {
    fail(printable(where), " is ", json_kind(value), ", expected an integer from ", least, " to ", most);
  };
  if (!value.is_number_integer()) wrong();
  if (value.is_number_unsigned() &&
      value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) {
    wrong();
  }
  const auto number = static_cast<Index>(value.get<std::int64_t>());
  if (number < least || number > most) wrong();
  return number;
}

/// `value` as a finite real number.
inline double json_number(const nlohmann::json& value, std::string_view where) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) {
    fail(printable(where), " is ", json_kind(value), ", expected a number");
  }
  return value.get<double>();
}

/// `value` as true or false.
inline bool json_boolean(const nlohmann::json& value, std::string_view where) {
  if (!value.is_boolean()) fail(printable(where), " is ", json_kind(value), ", expected true or false");
  return value.get<bool>();
}

/// `value` as a string.
inline const std::string& json_string(const nlohmann::json& value, std::string_view where) {
  if (!value.is_string()) fail(printable(where), " is ", json_kind(value), ", expected a string");
  return value.get_ref<const std::string&>();
}

}  // namespace xlstm::io
