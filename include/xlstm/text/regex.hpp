// SPDX-License-Identifier: Apache-2.0
// Patterns of tokenizer.json, matched by PCRE2 on valid UTF-8 with Unicode properties. The files are written for
// Oniguruma, whose \s, \w and \d differ a little from PCRE2's: those are spelled out, so that both cut a text alike.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "xlstm/core/error.hpp"

namespace xlstm {

/// A pattern with \s, \S, \w, \W replaced by what they mean in Oniguruma: \s is White_Space (PCRE2 adds U+180E), \w is
/// Alphabetic, Mark, Decimal_Number and Connector_Punctuation and, outside of brackets, Latin-1's superscripts and
/// fractions (PCRE2: letters, numbers, the underscore). Within brackets \W stays PCRE2's.
inline std::string oniguruma_classes(std::string_view pattern) {
  constexpr std::string_view space = "\\t-\\r\\x{85}\\p{Z}";
  constexpr std::string_view word =
      "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}"
      "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";
  constexpr std::string_view latin_word = "\\xB2\\xB3\\xB9\\xBC-\\xBE";
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      const bool first_in_class = !out.empty() && in_class && (out.back() == '[' || out.ends_with("[^"));
      if (c == '[' && !in_class) {
        in_class = true;
      } else if (c == '[' && pattern.substr(i, 2) == "[:") {  // [:alpha:] within a class
        const std::size_t end = pattern.find(":]", i + 2);
        if (end != pattern.npos) {
          out.append(pattern.substr(i, end + 2 - i));
          i = end + 1;
          continue;
        }
      } else if (c == ']' && !first_in_class) {
        in_class = false;
      }
      out.push_back(c);
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out.append(in_class ? "" : "[").append(space).append(in_class ? "" : "]");
    } else if (escaped == 'S') {
      out.append(in_class ? "\\S\\x{180E}" : "[^").append(in_class ? "" : space).append(in_class ? "" : "]");
    } else if (escaped == 'w') {
      out.append(in_class ? "" : "[").append(word).append(in_class ? "" : latin_word).append(in_class ? "" : "]");
    } else if (escaped == 'W' && !in_class) {
      out.append("[^").append(word).append(latin_word).append("]");
    } else {
      out.append({c, escaped});
    }
  }
  return out;
}

/// A compiled pattern. Immutable: any number of threads may match with it, each with a Matcher of its own.
class Regex {
 public:
  /// Compiles `pattern`; `where` (a file and a key) begins the message of the Error that an invalid one throws.
  Regex(std::string_view pattern, std::string_view where) {
    if (pattern.size() > pattern_limit)
      fail(where, " has ", pattern.size(), " bytes, expected at most ", pattern_limit);
    const std::string translated = oniguruma_classes(pattern);
    const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
        pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
    if (!context) throw std::bad_alloc();
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context.get(), 100);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                              context.get()));
    if (!code_) fail(where, " is not a valid regular expression: ", message(error));
    // Without just-in-time compilation on this machine matching is slower and otherwise the same.
    (void)pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
  }

  /// A match is the bytes [begin, end) of the text.
  struct Match {
    std::size_t begin, end;
  };

  /// The memory of one thread's matching.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex)
        : regex_(&regex),
          data_(pcre2_match_data_create_from_pattern(regex.code_.get(), nullptr), &pcre2_match_data_free),
          context_(pcre2_match_context_create(nullptr), &pcre2_match_context_free) {
      if (!data_ || !context_) throw std::bad_alloc();
      pcre2_set_heap_limit(context_.get(), 256 * 1024);  // KiB
    }

    /// The first match of `text`, valid UTF-8, at or after `from`. Returns false if there is none.
    /// Error where the pattern backtracks more than a pattern that is linear in the text's length can.
    bool find(std::string_view text, std::size_t from, Match& match) {
      const auto limit = static_cast<std::uint32_t>(
          std::min<std::size_t>(100000 + 16 * text.size(), std::numeric_limits<std::uint32_t>::max()));
      pcre2_set_match_limit(context_.get(), limit);
      pcre2_set_depth_limit(context_.get(), limit);
      int result = run(text, from, 0);
      if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = run(text, from, PCRE2_NO_JIT);
      if (result == PCRE2_ERROR_NOMATCH) return false;
      if (result < 0)
        fail("the tokenizer's pattern cannot be matched on a text of ", text.size(), " bytes: ", message(result));
      const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
      match = {offsets[0], std::max(offsets[0], offsets[1])};
      return true;
    }

   private:
    int run(std::string_view text, std::size_t from, std::uint32_t options) {
      return pcre2_match(regex_->code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, data_.get(), context_.get());
    }

    const Regex* regex_;
    std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data_;
    std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context_;
  };

 private:
  static constexpr std::size_t pattern_limit = 65536;

  static std::string message(int error) {
    std::array<PCRE2_UCHAR, 256> buffer{};
    pcre2_get_error_message(error, buffer.data(), buffer.size());
    return reinterpret_cast<const char*>(buffer.data());
  }

  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code_{nullptr, &pcre2_code_free};
};

}  // namespace xlstm
