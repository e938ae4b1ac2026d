// SPDX-License-Identifier: Apache-2.0
// Tokens one by one: read the prompt, choose the next token, take it in, and so on, until a limit, a stop token or a
// request to stop.
#pragma once

#include <algorithm>
#include <iterator>
#include <span>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <vector>

#include "xlstm/generate/sampler.hpp"
#include "xlstm/generate/session.hpp"

namespace xlstm {

struct GenerationOptions {
  Index max_tokens = 256;
  SamplingOptions sampling = {};
  std::vector<Token> stop_tokens = {};  ///< end the generation; not given out
  PrefillOptions prefill = {};
  std::stop_token cancel = {};  ///< asked before every token
};

/// An input range of tokens. The work happens in begin() and ++. Each generation draws from a new sampler that starts
/// from the seed, and its repetition penalty sees the prompt that it was given and the tokens that it made, not what
/// the session took in before.
template <class SessionType>
class Generation {
 public:
  /// Error for options or tokens outside their ranges.
  Generation(SessionType& session, std::span<const Token> prompt, GenerationOptions options)
      : session_(&session), options_(std::move(options)), sampler_(options_.sampling) {
    if (options_.max_tokens < 0) fail("generate: max_tokens is ", options_.max_tokens, ", expected at least 0");
    if (remembers()) seen_.resize(static_cast<std::size_t>(SessionType::Model::vocab_size));
    session_->prefill(prompt, options_.prefill);
    for (const Token token : prompt) remember(token);
    if (session_->position() == 0 && !session_->owed()) {
      fail("generate: the prompt is empty and the session is new; expected at least one token, such as bos");
    }
  }

  class Iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using value_type = Token;
    using difference_type = std::ptrdiff_t;

    Iterator() = default;
    explicit Iterator(Generation* generation) : generation_(generation) {}
    Token operator*() const { return generation_->token_; }
    Iterator& operator++() {
      generation_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const Iterator& i, std::default_sentinel_t) { return i.generation_->done(); }

   private:
    Generation* generation_ = nullptr;
  };

  Iterator begin() {
    advance();
    return Iterator(this);
  }
  static std::default_sentinel_t end() { return {}; }

  /// Whether the range has ended.
  bool done() const { return done_; }
  /// Tokens given out so far.
  Index count() const { return count_; }

 private:
  bool remembers() const { return options_.sampling.repetition_penalty != 1; }

  /// The sampler's context is the set of tokens seen: bounded by the vocabulary, however long the text.
  void remember(Token token) {
    if (!remembers()) return;
    auto seen = seen_[static_cast<std::size_t>(token)];
    if (seen) return;
    seen_[static_cast<std::size_t>(token)] = true;
    context_.push_back(token);
  }

  // The sampler's logits are fp32; a backend may compute in another type.
  std::span<const float> in_float(std::span<const typename SessionType::Logit> logits) {
    if constexpr (std::is_same_v<typename SessionType::Logit, float>) {
      return logits;
    } else {
      rounded_.resize(logits.size());
      std::transform(logits.begin(), logits.end(), rounded_.begin(), [](auto x) { return static_cast<float>(x); });
      return rounded_;
    }
  }

  void advance() {
    done_ = count_ >= options_.max_tokens || options_.cancel.stop_requested();
    if (done_) return;
    token_ = sampler_.sample(in_float(session_->logits()), context_);
    if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token_) != options_.stop_tokens.end()) {
      done_ = true;
      return;
    }
    session_->owe(token_);
    remember(token_);
    ++count_;
  }

  SessionType* session_;
  GenerationOptions options_;
  Sampler sampler_;
  std::vector<bool> seen_;
  std::vector<Token> context_;
  std::vector<float> rounded_;
  Token token_ = 0;
  Index count_ = 0;
  bool done_ = false;
};

template <class Model>
Generation<Session<Model>> Session<Model>::generate(std::span<const Token> prompt, const GenerationOptions& options) & {
  return Generation<Session>(*this, prompt, options);
}
template <class Model>
Generation<Session<Model>> Session<Model>::generate(std::span<const Token> prompt) & {
  return Generation<Session>(*this, prompt, {});
}

/// The same with a callback (and so a new sampler each time): use(token) for every token; a callback that returns false
/// ends the generation.
template <class Model, class Use>
void generate(Session<Model>& session, std::span<const Token> prompt, const GenerationOptions& options, Use&& use) {
  for (const Token token : session.generate(prompt, options)) {
    if (!use(token)) return;
  }
}

}  // namespace xlstm
