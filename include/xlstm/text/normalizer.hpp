// SPDX-License-Identifier: Apache-2.0
// "normalizer" of tokenizer.json: NFC, NFD, NFKC, NFKD (UAX #15), Lowercase, Prepend, Replace of a string, and
// sequences of them. Decomposition and composition of characters are utf8proc's; the canonical ordering is our own,
// since theirs takes quadratic time on long runs of combining marks.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/text/json_field.hpp"
#include "xlstm/text/utf8.hpp"

namespace xlstm {

/// The four normalisation forms of Unicode.
enum class NormalForm { nfc, nfd, nfkc, nfkd };

namespace normal_form {

constexpr bool composed(NormalForm form) { return form == NormalForm::nfc || form == NormalForm::nfkc; }
constexpr bool compatible(NormalForm form) { return form == NormalForm::nfkc || form == NormalForm::nfkd; }

/// Sorts every run of characters with a combining class other than 0 by that class, keeping the order of equals, by
/// counting: linear however long the runs are.
inline void order_canonically(std::vector<utf8proc_int32_t>& points) {
  const auto combining_class = [](utf8proc_int32_t c) {
    return static_cast<std::size_t>(utf8proc_get_property(c)->combining_class) & 255;
  };
  const auto starter = [&](utf8proc_int32_t c) { return combining_class(c) == 0; };
  std::vector<utf8proc_int32_t> run;
  for (auto first = points.begin(); first != points.end();) {
    first = std::find_if_not(first, points.end(), starter);
    const auto last = std::find_if(first, points.end(), starter);
    if (last - first > 1) {
      run.assign(first, last);
      std::array<Index, 257> place{};  // where the next character of each class goes
      for (const auto c : run) ++place[combining_class(c) + 1];
      std::partial_sum(place.begin(), place.end(), place.begin());
      for (const auto c : run) first[place[combining_class(c)]++] = c;
    }
    first = last;
  }
}

/// Appends the normal form of `segment`, valid UTF-8, to `out`.
inline void append_segment(NormalForm form, std::string_view segment, std::string& out) {
  constexpr std::size_t longest = 32;  // the longest decomposition of one character has 18
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible(form) ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(segment.size() + longest);
  while (!segment.empty()) {
    const Utf8Step step = utf8_step(segment);
    segment.remove_prefix(step.length);
    const std::size_t used = points.size();
    points.resize(used + longest);
    int boundary_class = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), points.data() + used,
                                               static_cast<utf8proc_ssize_t>(longest), options, &boundary_class);
    points.resize(used + static_cast<std::size_t>(std::clamp<utf8proc_ssize_t>(count, 0, longest)));
  }
  order_canonically(points);
  if (composed(form)) {
    const auto count = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                                                static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    points.resize(static_cast<std::size_t>(std::max<utf8proc_ssize_t>(count, 0)));
  }
  for (const utf8proc_int32_t point : points) append_utf8(out, static_cast<char32_t>(point));
}

}  // namespace normal_form

/// The normal form of `text`, valid UTF-8. Linear in its length (up to the sorting of runs of combining marks).
inline std::string normalized(NormalForm form, std::string_view text) {
  const auto ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    // ASCII normalises to itself, and only the last character before a run of others can take part in it.
    std::size_t plain = static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), ascii) - text.begin());
    if (plain != text.size() && plain > 0) --plain;
    out.append(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty()) break;
    const auto end = std::find_if(text.begin() + 1 + (ascii(text[0]) ? 1 : 0), text.end(), ascii);
    const auto length = static_cast<std::size_t>(end - text.begin());
    const std::string_view segment = text.substr(0, length);
    // Lead bytes below 0xCC: all characters are below U+0300, where NFC changes nothing.
    const bool latin =
        std::all_of(segment.begin(), segment.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
    if (latin && form == NormalForm::nfc) {
      out.append(segment);
    } else {
      normal_form::append_segment(form, segment, out);
    }
    text.remove_prefix(length);
  }
  return out;
}

/// Character by character, by the mapping that needs no context.
inline std::string lowercased(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    if (step.code_point == 0x130) {
      out += "i\u0307";  // the one character whose lower case is two
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(step.code_point))));
    }
    text.remove_prefix(step.length);
  }
  return out;
}

/// What a text goes through before it is cut.
class TextNormalizer {
 public:
  TextNormalizer() = default;

  /// Reads "normalizer". Error for what is not supported.
  static TextNormalizer parse(const JsonField& field) {
    TextNormalizer normalizer;
    normalizer.add(field);
    return normalizer;
  }

  /// A single normal form.
  static TextNormalizer of(NormalForm form) {
    TextNormalizer normalizer;
    normalizer.steps_.push_back({Step::Kind::form, form, {}, {}});
    return normalizer;
  }

  bool empty() const { return steps_.empty(); }

  /// Normalises `text`, valid UTF-8, which it stays.
  /// Error where it grows out of all proportion, which no real normaliser does.
  void apply(std::string& text) const {
    const std::size_t limit = 64 * text.size() + 65536;
    for (const Step& step : steps_) {
      switch (step.kind) {
        case Step::Kind::form:
          text = normalized(step.form, text);
          break;
        case Step::Kind::lowercase:
          text = lowercased(text);
          break;
        case Step::Kind::prepend:
          if (!text.empty()) text.insert(0, step.content);
          break;
        case Step::Kind::replace:
          text = replaced(text, step.pattern, step.content, limit);
          break;
      }
      if (text.size() > limit) fail("the tokenizer's normalizer makes the text longer than ", limit, " bytes");
    }
  }

 private:
  struct Step {
    enum class Kind { form, lowercase, prepend, replace };
    Kind kind;
    NormalForm form;
    std::string pattern, content;
  };

  static constexpr std::size_t step_limit = 64;

  void add(const JsonField& field) {
    const JsonField type = field.at("type");
    const std::string& name = type.string();
    if (name == "Sequence") {
      const JsonField parts = field.at("normalizers");
      for (Index i = 0; i < parts.array().size(); ++i) add(parts.element(i));
      return;
    }
    if (steps_.size() == step_limit) field.fail_expected("at most 64 normalizers");
    if (name == "NFC") {
      steps_.push_back({Step::Kind::form, NormalForm::nfc, {}, {}});
    } else if (name == "NFD") {
      steps_.push_back({Step::Kind::form, NormalForm::nfd, {}, {}});
    } else if (name == "NFKC") {
      steps_.push_back({Step::Kind::form, NormalForm::nfkc, {}, {}});
    } else if (name == "NFKD") {
      steps_.push_back({Step::Kind::form, NormalForm::nfkd, {}, {}});
    } else if (name == "Lowercase") {
      steps_.push_back({Step::Kind::lowercase, {}, {}, {}});
    } else if (name == "Prepend") {
      steps_.push_back({Step::Kind::prepend, {}, {}, field.at("prepend").string()});
    } else if (name == "Replace") {
      const JsonField pattern = field.at("pattern");
      const auto literal = pattern.find("String");
      if (!literal || literal->string().empty()) pattern.fail_expected("{\"String\": a string that is not empty}");
      steps_.push_back({Step::Kind::replace, {}, literal->string(), field.at("content").string()});
    } else {
      type.fail_expected("NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace or Sequence");
    }
  }

  static std::string replaced(std::string_view text, std::string_view pattern, std::string_view content,
                              std::size_t limit) {
    std::string out;
    for (std::size_t at = 0;;) {
      const std::size_t found = text.find(pattern, at);
      out.append(text.substr(at, found == text.npos ? found : found - at));
      if (found == text.npos) return out;
      out.append(content);
      if (out.size() > limit) return out;
      at = found + pattern.size();
    }
  }

  std::vector<Step> steps_;
};

}  // namespace xlstm
