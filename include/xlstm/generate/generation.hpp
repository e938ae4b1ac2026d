// SPDX-License-Identifier: Apache-2.0
// Tokens one by one: read the prompt, choose the next token, take it in, and so on, until a limit, a stop token or a
// request to stop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
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
  /// On a device that chooses tokens itself: how many it makes, at most, before the host sees the first of them. 0: the
  /// host chooses each. The tokens are the same.
  Index ahead = 32;
};

/// An input range of tokens. The work happens in begin() and ++. A device may make tokens before they are asked for, at
/// first a few, then up to `ahead`: in a state beside the session's, so that the session always stands for the tokens
/// that were given out, and what was made beyond a stop or the loop's end is gone. Each generation draws from a new
/// sampler that starts from the seed, and its repetition penalty sees the prompt that it was given and the tokens that
/// it made, not what the session took in before.
template <class SessionType>
class Generation {
 public:
  /// Error for options or tokens outside their ranges.
  Generation(SessionType& session, std::span<const Token> prompt, GenerationOptions options)
      : session_(&session), options_(std::move(options)), sampler_(options_.sampling) {
    if (options_.max_tokens < 0) fail("generate: max_tokens is ", options_.max_tokens, ", expected at least 0");
    if (options_.ahead < 0) fail("generate: ahead is ", options_.ahead, ", expected at least 0");
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
    std::uint8_t& seen = seen_[static_cast<std::size_t>(token)];
    if (seen != 0) return;
    seen = 1;
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

  /// What a device has made, and the session has not taken in.
  struct Ahead {
    typename SessionType::Model::SpareState state;
    std::vector<typename SessionType::Backend::SampledToken> tokens;
    std::size_t next = 0;
    std::uint64_t version = 0;  ///< of the session that they follow
    Index count = 4;            ///< how many to make the next time
  };

  /// Whether the device has the next token. If so, it is token_.
  bool take_ahead() {
    if (options_.ahead == 0) return false;
    if (!ahead_) ahead_.emplace(Ahead{typename SessionType::Model::SpareState(session_->model()), {}});
    Ahead& ahead = *ahead_;
    if (ahead.next == ahead.tokens.size() || ahead.version != session_->version_) {
      ahead.tokens.clear();
      ahead.next = 0;
      if (!session_->owed()) return false;  // the host has the logits
      const Index count = std::min(
          {ahead.count, options_.ahead, options_.max_tokens - count_, SessionType::Backend::most_sampled_tokens});
      ahead.count = std::min(2 * ahead.count, options_.ahead);
      session_->run_ahead(ahead.state, count, sampler_, seen_, ahead.tokens);
      ahead.version = session_->version_;
    }
    const auto& sampled = ahead.tokens[ahead.next];
    if (sampled.token < 0) {  // the host's sampler says what is wrong
      ahead.tokens.clear();
      ahead.next = 0;
      return false;
    }
    ++ahead.next;
    token_ = sampled.token;
    sampler_.set_state(sampled.random);
    return true;
  }

  void advance() {
    done_ = count_ >= options_.max_tokens || options_.cancel.stop_requested();
    if (done_) return;
    bool from_device = false;
    if constexpr (SamplingBackend<typename SessionType::Backend>) from_device = take_ahead();
    if (!from_device) token_ = sampler_.sample(in_float(session_->logits()), context_);
    if (std::find(options_.stop_tokens.begin(), options_.stop_tokens.end(), token_) != options_.stop_tokens.end()) {
      if (from_device) session_->count_all();
      done_ = true;
      return;
    }
    if constexpr (SamplingBackend<typename SessionType::Backend>) {
      if (from_device) {
        session_->owe_ahead(token_);
        if (ahead_->next == ahead_->tokens.size()) session_->catch_up(ahead_->state);
      }
    }
    if (!from_device) session_->owe(token_);
    remember(token_);
    ++count_;
  }

  SessionType* session_;
  GenerationOptions options_;
  Sampler sampler_;
  std::vector<std::uint8_t> seen_;
  std::vector<Token> context_;
  std::vector<float> rounded_;
  struct None {};
  [[no_unique_address]] std::conditional_t<SamplingBackend<typename SessionType::Backend>, std::optional<Ahead>, None>
      ahead_;
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
  static_assert(std::is_invocable_r_v<bool, Use&, Token>,
                "xlstm: what generate calls with every token must return whether to go on, true or false");
  for (const Token token : session.generate(prompt, options)) {
    if (!use(token)) return;
  }
}

}  // namespace xlstm
