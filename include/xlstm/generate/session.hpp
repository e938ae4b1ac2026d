// SPDX-License-Identifier: Apache-2.0
// A conversation with a model: its recurrent state, of constant size however long it grows. A value: copy it to branch,
// keep a copy to rewind, save it to resume (generate/session_file.hpp).
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/generate/sampler.hpp"
#include "xlstm/model/model.hpp"

namespace xlstm {

/// How a prompt is read: which form of the cell, its chunk size (0: the backend's choice), and how many tokens at a
/// time, which bounds the memory that reading needs. None of them changes the result beyond rounding.
struct PrefillOptions {
  Form form = Form::chunkwise;
  Index chunk_size = 0;
  Index slice = 512;
};

struct GenerationOptions;
template <class Session>
class Generation;

/// One conversation. Not for use by several threads at once; any number of sessions of one model may run at once.
template <class ModelType>
class Session {
 public:
  using Model = ModelType;
  using Backend = typename Model::BackendType;
  using State = typename Model::State;
  using Logit = typename Model::Logit;

  explicit Session(Model model)
      : model_(std::move(model)),
        state_(model_.new_state()),
        logits_(static_cast<std::size_t>(Model::vocab_size), Logit{0}) {}

  const Model& model() const { return model_; }

  /// How many tokens the session has taken in.
  Index position() const { return position_ + static_cast<Index>(counted()); }

  /// The state: Model::state_size values, laid out as Network::for_each_state says. A view of them, or a copy if they
  /// are in a device's memory.
  auto state() const {
    if constexpr (DeviceBackend<Backend>) {
      if (counted() > 0) {
        Session copy(*this);
        copy.take_owed(counted());
        return copy.state_.read();
      }
    }
    return state_.read();
  }

  /// Logits of what comes after the tokens taken in so far; zeros before the first token.
  /// Takes in the token that is still owed, if there is one (see owe()).
  std::span<const Logit> logits() {
    settle();
    return logits_;
  }

  /// Takes in a prompt, or a further piece of one, of any length, in memory that does not depend on it.
  /// Error if a token is outside the vocabulary; then nothing has changed. What else is thrown while it computes
  /// (memory that is short, a backend or module of one's own) leaves the session as reset() does: a state of which some
  /// blocks have moved on and some have not would give text that nobody could tell from right.
  void prefill(std::span<const Token> tokens, const PrefillOptions& options = {}) {
    check(tokens);
    if (options.slice < 1) fail("prefill: slice is ", options.slice, ", expected at least 1");
    if (options.chunk_size < 0) fail("prefill: chunk_size is ", options.chunk_size, ", expected at least 1 or 0");
    settle();
    take_in(tokens, options);
  }

  /// Takes in one token and returns the logits of the next. Error if it is outside the vocabulary.
  std::span<const Logit> step(Token token) {
    prefill(std::span<const Token>(&token, 1));
    return logits_;
  }

  /// One token for each of several sessions of the same model, in one pass over the weights; positions may differ.
  /// Afterwards sessions[i]->logits() are what step(tokens[i]) gives, within rounding.
  /// Error if the sessions are not distinct sessions of one model, or a token is outside the vocabulary. What else is
  /// thrown while it computes leaves all of them as reset() does (see prefill).
  static void step(std::span<Session* const> sessions, std::span<const Token> tokens) {
    if (sessions.size() != tokens.size()) {
      fail("batched step: ", sessions.size(), " sessions and ", tokens.size(), " tokens, expected one token each");
    }
    if (sessions.empty()) return;
    check(tokens);
    for (const Session* s : sessions) {
      if (!s->model_.same_as(sessions[0]->model_)) fail("batched step: a session belongs to another model");
    }
    std::vector<const Session*> sorted(sessions.begin(), sessions.end());
    std::sort(sorted.begin(), sorted.end(), std::less<>());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
      fail("batched step: the same session is given twice");
    }
    std::vector<State*> slots;
    slots.reserve(sessions.size());
    for (Session* s : sessions) {
      s->settle();
      s->touch();
      slots.push_back(s->state_.data());
    }
    ResetUnlessDone guard{sessions};
    const auto lease = sessions[0]->model_.lease();
    const Run run{.sequences = static_cast<Index>(sessions.size()), .length = 1, .form = Form::recurrent};
    sessions[0]->model_.run(*lease, run, tokens, {slots.data(), 0}, Model::Rows::last, [&](Index first, auto logits) {
      for (Index r = 0; r < logits.rows(); ++r) {
        Session& s = *sessions[static_cast<std::size_t>(first + r)];
        std::copy_n(logits.row(r), Model::vocab_size, s.logits_.data());
      }
    });
    for (Session* s : sessions) ++s->position_;
    guard.sessions = {};
  }

  /// Says that `token` comes next, without computing yet: it is taken in when the session next needs its logits.
  /// Generation owes its last token, so that ending it costs nothing and the session still stands for the whole text.
  void owe(Token token) {
    check(std::span<const Token>(&token, 1));
    settle();
    touch();
    owe_ahead(token);
  }
  std::optional<Token> owed() const { return counted() == owed_.size() ? std::nullopt : std::optional(owed_.back()); }

  /// Forgets everything: the state before the first token.
  void reset() {
    std::fill(logits_.begin(), logits_.end(), Logit{0});
    position_ = 0;
    owed_.clear();
    touch();
    state_.clear();
  }

  /// Tokens that continue the prompt, one by one as they are made (generate/generation.hpp):
  /// `for (Token t : session.generate(prompt, {.max_tokens = 100})) …`
  /// The session must outlive the tokens, so a temporary one cannot generate.
  Generation<Session> generate(std::span<const Token> prompt, const GenerationOptions& options) &;
  Generation<Session> generate(std::span<const Token> prompt) &;
  void generate(std::span<const Token> prompt, const GenerationOptions& options) && = delete;
  void generate(std::span<const Token> prompt) && = delete;

 private:
  template <class S>
  friend class SessionFile;
  template <class S>
  friend class Generation;

  struct ResetUnlessDone {
    std::span<Session* const> sessions;
    ~ResetUnlessDone() {
      for (Session* s : sessions) {
        try {
          s->reset();
        } catch (const Error&) {
          // A device that cannot even write zeros any more says so again at the next use.
        }
      }
    }
  };

  static void check(std::span<const Token> tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] < 0 || tokens[i] >= Model::vocab_size) {
        fail("token ", tokens[i], " at position ", i, " is outside the vocabulary, expected 0 to ",
             Model::vocab_size - 1);
      }
    }
  }
  void take_in(std::span<const Token> tokens, const PrefillOptions& options = {}) {
    if (tokens.empty()) return;
    touch();
    Session* const self = this;
    ResetUnlessDone guard{{&self, 1}};
    const auto lease = model_.lease();
    const auto total = static_cast<Index>(tokens.size());
    for (Index done = 0; done < total; done += options.slice) {
      const Index n = std::min(options.slice, total - done);
      Run run{.sequences = 1, .length = n, .form = options.form, .chunk_size = options.chunk_size};
      if (n == 1) run.form = Form::recurrent;
      const auto rows = done + n == total ? Model::Rows::last : Model::Rows::none;
      State* slot = state_.data();
      model_.run(*lease, run, tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)), {&slot, 0},
                 rows, [&](Index, auto logits) { std::copy_n(logits.row(0), Model::vocab_size, logits_.data()); });
      position_ += n;
    }
    guard.sessions = {};
  }
  void settle() { take_owed(owed_.size()); }
  /// How many of what it owes count as taken in: those that a device has made, but not in this session's state.
  std::size_t counted() const { return owed_.size() - (owes_last_ && !owed_.empty() ? 1 : 0); }
  /// The first `count` of what is owed, one by one.
  void take_owed(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const Token token = owed_.front();
      owed_.erase(owed_.begin());
      take_in(std::span<const Token>(&token, 1));
    }
  }

  // What a device generates ahead (generate/generation.hpp) stands in a state of its own until all of it has been given
  // out; meanwhile the session owes what has been. Whoever changes the session otherwise gives it another version.
  using SpareState = typename Model::SpareState;
  static std::uint64_t next_version() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }
  void touch() { version_ = next_version(); }

  /// Makes `count` tokens that follow the owed one, in `ahead`. Nothing of the session changes but what it owes.
  template <class Sampled>
  void run_ahead(SpareState& ahead, Index count, const Sampler& sampler, std::span<const std::uint8_t> seen,
                 std::vector<Sampled>& sampled) {
    take_owed(counted());
    const auto lease = model_.lease();
    lease->copy_state(state_.data(), (*ahead).data(), Model::state_size);
    lease->begin_sampling(sampler.options(), sampler.state(), seen, Model::vocab_size);
    model_.sample_steps(*lease, owed_.front(), (*ahead).data(), count);
    const auto made = lease->end_sampling();
    sampled.assign(made.begin(), made.end());
  }
  /// The next of these tokens is given out.
  void owe_ahead(Token token) {
    owed_.push_back(token);
    owes_last_ = true;
  }
  /// The one after them is asked for, and not given out.
  void count_all() { owes_last_ = false; }
  /// All of them are: `ahead` is the state before the last.
  void catch_up(SpareState& ahead) {
    std::swap(state_, *ahead);
    position_ += static_cast<Index>(owed_.size()) - 1;
    owed_.erase(owed_.begin(), owed_.end() - 1);
  }

  Model model_;
  typename Model::SequenceState state_;
  std::vector<Logit> logits_;
  Index position_ = 0;
  std::vector<Token> owed_;  ///< in their order
  bool owes_last_ = true;    ///< or counts as taken in, as those before it do
  std::uint64_t version_ = next_version();
};

template <class Network, Backend B>
Session<Model<Network, B>> Model<Network, B>::session() const {
  return Session<Model>(*this);
}

}  // namespace xlstm
