// SPDX-License-Identifier: Apache-2.0
// "pre_tokenizer" of tokenizer.json: cuts a text into the pieces that byte-pair encoding never merges across.
// ByteLevel (GPT-2's pattern, or none), and sequences of Split and Digits that end in ByteLevel, as Hugging Face's
// tokenizers define them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/text/json_field.hpp"
#include "xlstm/text/regex.hpp"
#include "xlstm/text/utf8.hpp"

namespace xlstm {

/// GPT-2's pattern (Radford et al. 2019): contractions, words, numbers and the rest with the blank before them, blanks.
inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// What becomes of the parts of a text that a pattern matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Cuts texts into pieces.
class PreTokenizer {
 public:
  /// Reads "pre_tokenizer". Error for what is not supported.
  static PreTokenizer parse(const JsonField& field) {
    PreTokenizer result;
    result.add(field);
    if (result.stages_.empty() || !result.stages_.back().byte_level) {
      field.fail_expected("ByteLevel, or a Sequence that ends in ByteLevel");
    }
    return result;
  }

  /// ByteLevel with GPT-2's pattern.
  static PreTokenizer gpt2() {
    PreTokenizer result;
    result.stages_.push_back(byte_level(true, false, "GPT-2's pattern"));
    return result;
  }

  /// One thread's memory for cutting with this pre-tokenizer.
  class Workspace {
   public:
    explicit Workspace(const PreTokenizer& pre_tokenizer) {
      for (const Stage& stage : pre_tokenizer.stages_) {
        matchers_.push_back(stage.regex ? std::make_unique<Regex::Matcher>(*stage.regex) : nullptr);
      }
    }

   private:
    friend class PreTokenizer;
    std::vector<std::unique_ptr<Regex::Matcher>> matchers_;
  };

  /// Calls emit(piece) for every piece of `text` (valid UTF-8) in order; no piece is empty.
  /// A piece is valid until emit returns.
  template <class Emit>
  void split(std::string_view text, Workspace& workspace, Emit&& emit) const {
    split_from(0, text, workspace, emit);
  }

 private:
  struct Stage {
    std::shared_ptr<const Regex> regex;  // none: the pieces stay as they are
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;
    bool byte_level = false;
    bool add_prefix_space = false;
  };

  static constexpr std::size_t stage_limit = 64;

  static Stage byte_level(bool use_regex, bool add_prefix_space, std::string_view where) {
    Stage stage;
    if (use_regex) stage.regex = std::make_shared<const Regex>(gpt2_pattern, where);
    stage.byte_level = true;
    stage.add_prefix_space = add_prefix_space;
    return stage;
  }

  void add(const JsonField& field) {
    const JsonField type = field.at("type");
    const std::string& name = type.string();
    if (name == "Sequence") {
      const JsonField parts = field.at("pretokenizers");
      for (Index i = 0; i < parts.array().size(); ++i) add(parts.element(i));
      return;
    }
    if (stages_.size() == stage_limit) field.fail_expected("at most 64 pre-tokenizers");
    if (!stages_.empty() && stages_.back().byte_level) field.fail_expected("nothing after ByteLevel");
    if (name == "ByteLevel") {
      stages_.push_back(
          byte_level(field.boolean_or("use_regex", true), field.boolean_or("add_prefix_space", true), field.where()));
    } else if (name == "Split") {
      Stage stage;
      stage.regex = split_pattern(field.at("pattern"));
      stage.behavior = split_behavior(field.at("behavior"));
      stage.invert = field.boolean_or("invert", false);
      stages_.push_back(std::move(stage));
    } else if (name == "Digits") {
      Stage stage;
      stage.regex = std::make_shared<const Regex>("\\p{N}", field.where());
      stage.behavior =
          field.boolean_or("individual_digits", false) ? SplitBehavior::isolated : SplitBehavior::contiguous;
      stages_.push_back(std::move(stage));
    } else {
      type.fail_expected("ByteLevel, Split, Digits or Sequence");
    }
  }

  static std::shared_ptr<const Regex> split_pattern(const JsonField& field) {
    if (const auto pattern = field.find("Regex")) {
      return std::make_shared<const Regex>(pattern->string(), pattern->where());
    }
    if (const auto literal = field.find("String")) {
      std::string escaped;
      for (const char c : literal->string()) {
        const bool plain = static_cast<unsigned char>(c) >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                           (c >= 'A' && c <= 'Z') || c == '\0';
        escaped.append(plain ? "" : "\\").push_back(c);
      }
      return std::make_shared<const Regex>(escaped, field.where());
    }
    field.fail_expected("an object with a Regex or a String");
  }

  static SplitBehavior split_behavior(const JsonField& field) {
    const std::string& name = field.string();
    if (name == "Removed") return SplitBehavior::removed;
    if (name == "Isolated") return SplitBehavior::isolated;
    if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
    if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
    if (name == "Contiguous") return SplitBehavior::contiguous;
    field.fail_expected("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
  }

  template <class Emit>
  void split_from(std::size_t index, std::string_view text, Workspace& workspace, Emit& emit) const {
    if (text.empty()) return;
    if (index == stages_.size()) {
      emit(text);
      return;
    }
    const Stage& stage = stages_[index];
    const auto next = [&](std::string_view piece) { split_from(index + 1, piece, workspace, emit); };
    std::string prefixed;
    if (stage.add_prefix_space && text.front() != ' ') {
      prefixed.reserve(text.size() + 1);
      prefixed.append(" ").append(text);
      text = prefixed;
    }
    if (!stage.regex) {
      next(text);
      return;
    }
    join_parts(stage, text, *workspace.matchers_[index], next);
  }

  // Walks over the parts that match and those between them and joins neighbours as the behaviour says.
  template <class Next>
  static void join_parts(const Stage& stage, std::string_view text, Regex::Matcher& matcher, const Next& next) {
    Regex::Match pending{0, 0};
    bool any = false, last_matched = false;
    const auto flush = [&] { next(text.substr(pending.begin, pending.end - pending.begin)); };
    const auto part = [&](std::size_t begin, std::size_t end, bool is_match) {
      const bool matched = is_match != stage.invert;
      if (stage.behavior == SplitBehavior::removed) {
        if (!matched) next(text.substr(begin, end - begin));
        return;
      }
      const bool joins = (stage.behavior == SplitBehavior::merged_with_previous && matched && !last_matched) ||
                         (stage.behavior == SplitBehavior::merged_with_next && !matched && last_matched) ||
                         (stage.behavior == SplitBehavior::contiguous && matched == last_matched);
      if (any && joins) {
        pending.end = end;
      } else {
        if (any) flush();
        pending = {begin, end};
      }
      any = true;
      last_matched = matched;
    };

    Regex::Match match{};
    std::size_t done = 0, from = 0;
    bool matched_before = false;
    while (from <= text.size() && matcher.find(text, from, match)) {
      if (match.begin == match.end && matched_before && match.end == done) {
        // An empty match right after a match is none; look on behind the next character.
        if (from == text.size()) break;
        from += utf8_step(text.substr(from)).length;
        continue;
      }
      if (done != match.begin) part(done, match.begin, false);
      part(match.begin, match.end, true);
      done = from = match.end;
      matched_before = true;
    }
    if (done != text.size()) part(done, text.size(), false);
    if (any) flush();
  }

  std::vector<Stage> stages_;
};

}  // namespace xlstm
