// SPDX-License-Identifier: Apache-2.0
// The config.yaml of the original xLSTM-7B export: a dataclass dumped as one `key: value` a line. That subset of YAML
// and no more is read here (scalars, comments, quotes without escapes, `---` and `...`), so that no YAML library is
// needed; nesting, lists, anchors, tags and multi-line text are refused, never guessed at.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "xlstm/core/error.hpp"
#include "xlstm/io/json.hpp"
#include "xlstm/io/printable.hpp"

namespace xlstm::io {

inline std::string_view trim_blanks(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

/// One scalar as the JSON value that it means. `where` names file and line.
inline nlohmann::json parse_yaml_scalar(std::string_view text, const std::string& where) {
  const auto refuse = [&]() {
    fail(where, ": \"", printable(text), "\" is not a plain scalar; only flat `key: value` YAML is read");
  };
  if (!text.empty() && (text[0] == '"' || text[0] == '\'')) {
    const std::size_t end = text.find(text[0], 1);
    if (end == std::string_view::npos) refuse();
    const std::string_view inside = text.substr(1, end - 1);
    const std::string_view rest = text.substr(end + 1);
    const std::string_view after = trim_blanks(rest);
    const bool comment = !after.empty() && after[0] == '#' && (rest[0] == ' ' || rest[0] == '\t');
    if (inside.find('\\') != std::string_view::npos || (!after.empty() && !comment)) refuse();
    return std::string(inside);
  }
  if (!text.empty() && text[0] == '#') text = {};
  for (const char* mark : {" #", "\t#"}) {
    if (const auto comment = text.find(mark); comment != std::string_view::npos) text = text.substr(0, comment);
  }
  text = trim_blanks(text);
  if (text.empty() || text == "null" || text == "Null" || text == "NULL" || text == "~") return nullptr;
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  if (std::string_view("0123456789+-.").find(text[0]) != std::string_view::npos) {
    nlohmann::json number = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
    if (!number.is_number()) refuse();  // octal, .inf, 1_000, "- item", a date, …
    return number;
  }
  if (std::string_view("[]{}&*!|>%@`,?:").find(text[0]) != std::string_view::npos) refuse();
  if (text.find(": ") != std::string_view::npos || text.back() == ':') refuse();
  return std::string(text);
}

/// The object that flat `key: value` YAML describes; `name` (a file) begins every message. Throws Error with the line
/// for everything else that YAML may hold, for a key that occurs twice and for bytes that are not UTF-8.
inline nlohmann::json parse_flat_yaml(std::string_view text, std::string_view name) {
  nlohmann::json object = nlohmann::json::object();
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string where = printable(name) + ": line " + std::to_string(number);
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    for (std::size_t at = 0; at < line.size();) {
      const std::size_t length = utf8_length(line, at);
      const auto first = static_cast<unsigned char>(line[at]);
      const bool blank = first == '\t' || (first == '\r' && at + 1 == line.size());
      if (length == 0 || (first < 0x20U && !blank)) fail(where, " holds bytes that are not text");
      at += length;
    }
    const std::string_view content = trim_blanks(line);
    if (content.empty() || content[0] == '#' || content == "---" || content == "...") continue;
    const std::size_t colon = line.find(':');
    const std::string_view key = line.substr(0, colon);
    const bool plain = !key.empty() && key.find_first_not_of(
                                           "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                           "0123456789_") == std::string_view::npos;
    const bool separated =
        colon != std::string_view::npos &&
        (colon + 1 == line.size() || std::string_view(" \t\r").find(line[colon + 1]) != std::string_view::npos);
    if (!plain || !separated) {
      fail(where, ": \"", printable(line), "\" is not `key: value`; only flat YAML is read");
    }
    if (object.contains(std::string(key))) fail(where, ": key \"", key, "\" occurs twice");
    object[std::string(key)] = parse_yaml_scalar(trim_blanks(line.substr(colon + 1)), where);
  }
  return object;
}

}  // namespace xlstm::io
