// SPDX-License-Identifier: Apache-2.0
// The next token from logits in a device's memory: generate/sampler.hpp's definition, its random numbers, and its token
// for the same logits, always. That sampler compares scores, and adds weights as integers, so that no order of summing
// matters; here the same functions give the same weights. One case may differ: where top-p ends between two tokens
// whose scores differ by less than 2^-30 of the temperature, so that rounding gives the likelier one the smaller
// weight, the host's sampler may order these two by weight.
//
// Kernels: scores (the repetition penalty); where top-k or top-p ask for it, the runtime sorts them, the likelier first
// and equals by their token; then one block finds the k-th and the last that top-p keeps, draws, and leaves the token
// where the next step reads it, so that any number of tokens follow one another without the host.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "xlstm/core/arena.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/device_runtime.hpp"
#include "xlstm/generate/sampler.hpp"

namespace xlstm::cuda {

/// A token that was chosen, and the state of the random numbers after it.
struct SampledToken {
  Token token = 0;  ///< −1: the host's sampler refuses these logits
  Random::State random{};
};

/// What the kernels know of the options, and what they make. In the device's memory.
struct SamplingState {
  static constexpr Index most_tokens = 64;

  std::uint32_t exponentials[sampling::exponential_table.size()];
  double scale;   ///< 1 / temperature
  double lowest;  ///< of (score − best) · scale
  double top_p;
  double penalty;
  std::uint64_t least_weight;  ///< what min_p asks for
  Index top_k;
  int greedy;
  int made;  ///< tokens so far
  Random::State random;
  SampledToken tokens[most_tokens];
};

namespace detail {
inline constexpr float excluded_score = -std::numeric_limits<float>::infinity();

/// A score and its token; the likelier comes first.
struct Scored {
  float score = excluded_score;
  std::int32_t token = std::numeric_limits<std::int32_t>::max();
};
struct Likelier {
  XLSTM_HOST_DEVICE Scored operator()(const Scored& a, const Scored& b) const {
    if (a.score != b.score) return a.score > b.score ? a : b;
    return a.token < b.token ? a : b;
  }
};
}  // namespace detail

/// scores = logits after the repetition penalty, order = 0, 1, …
struct ScoresKernel {
  const float* logits;
  const std::uint8_t* seen;  ///< (count): whether the text has the token
  const SamplingState* state;
  Index count;
  float* scores;
  std::uint32_t* order;

  static constexpr int threads = 256;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index i = Index{thread.block_index().x} * threads + thread.index();
    if (i >= count) return;
    order[i] = static_cast<std::uint32_t>(i);
    const float logit = logits[i];
    const double penalty = state->penalty;
    scores[i] = penalty == 1 || seen[i] == 0 ? logit : sampling::penalized(logit, penalty);
  }
};

/// One block chooses a token.
struct DrawKernel {
  const float* logits;
  const float* scores;
  const float* sorted;  ///< scores, the likelier first, and their tokens; or null
  const std::uint32_t* order;
  Index count;
  SamplingState* state;
  std::uint8_t* seen;
  Token* next;

  static constexpr int threads = 512;
  struct Chosen : SharedArray<int, 4> {};
  struct Words : SharedArray<std::uint64_t, 4> {};
  using Shared = SharedLayout<BlockReduceStorage<int>, BlockReduceStorage<detail::Scored>,
                              BlockReduceStorage<std::uint64_t>, BlockScanStorage<std::uint64_t>, Chosen, Words>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    bool wrong = false;
    detail::Scored best;
    for (Index i = thread.index(); i < count; i += threads) {
      if (!(logits[i] < std::numeric_limits<float>::infinity())) wrong = true;
      best = detail::Likelier{}(best, detail::Scored{scores[i], static_cast<std::int32_t>(i)});
    }
    if (block_any(thread, wrong)) return take(thread, -1);
    best = block_reduce(thread, best, detail::Likelier{});
    if (best.score == detail::excluded_score) return take(thread, -1);
    if (state->greedy != 0) return take(thread, best.token);

    Kept kept{*this, best.score, detail::excluded_score, detail::Scored{detail::excluded_score}, false};
    if (state->top_k > 0 && state->top_k < count) kept.least = sorted[state->top_k - 1];
    if (state->top_p < 1) {
      const std::uint64_t all = total(thread, kept);
      const auto needed = static_cast<std::uint64_t>(::ceil(state->top_p * static_cast<double>(all)));
      const std::uint64_t least = needed < 1 ? 1 : needed > all ? all : needed;
      const int place = reaches(thread, kept, true, least);
      kept.last = detail::Scored{sorted[place], static_cast<std::int32_t>(order[place])};
      kept.has_last = true;
    }
    kept.least_weight = state->least_weight;
    const std::uint64_t position = drawn(thread, total(thread, kept));
    take(thread, reaches(thread, kept, false, position + 1));
  }

 private:
  /// The weight of a candidate, 0 for what is none.
  struct Kept {
    const DrawKernel& kernel;
    float best;
    float least;          ///< of top_k
    detail::Scored last;  ///< of top_p
    bool has_last;
    std::uint64_t least_weight = 0;

    XLSTM_DEVICE std::uint64_t weight(float score, std::int32_t token) const {
      const SamplingState& options = *kernel.state;
      const double x = (static_cast<double>(score) - static_cast<double>(best)) * options.scale;
      if (score < least || x < options.lowest) return 0;
      if (has_last && (last.score > score || (last.score == score && last.token < token))) return 0;
      const std::uint64_t weight = sampling::exponential(x, options.exponentials);
      return weight < least_weight ? 0 : weight;
    }
  };

  template <class Thread>
  XLSTM_DEVICE std::uint64_t total(Thread& thread, const Kept& kept) const {
    std::uint64_t sum = 0;
    for (Index i = thread.index(); i < count; i += threads) sum += kept.weight(scores[i], static_cast<std::int32_t>(i));
    return block_reduce(thread, sum, Sum{});
  }

  /// Where the sum of the weights, in the order of likelihood or of tokens, reaches `needed`.
  template <class Thread>
  XLSTM_DEVICE int reaches(Thread& thread, const Kept& kept, bool by_likelihood, std::uint64_t needed) const {
    auto chosen = thread.template shared<Chosen>();
    std::uint64_t sum = 0;
    for (Index first = 0; first < count && sum < needed; first += threads) {
      const Index i = first + thread.index();
      std::uint64_t weight = 0;
      if (i < count) {
        weight = by_likelihood ? kept.weight(sorted[i], static_cast<std::int32_t>(order[i]))
                               : kept.weight(scores[i], static_cast<std::int32_t>(i));
      }
      const std::uint64_t up_to = block_inclusive_scan(thread, weight, Sum{}, sum);
      if (up_to >= needed && up_to - weight < needed) chosen[0] = static_cast<int>(i);
    }
    thread.sync_block();
    const int found = chosen[0];
    thread.sync_block();
    return found;
  }

  /// Uniform in {0, …, total − 1}, the same for all threads.
  template <class Thread>
  XLSTM_DEVICE std::uint64_t drawn(Thread& thread, std::uint64_t total) const {
    auto words = thread.template shared<Words>();
    if (thread.index() == 0) {
      Random random(state->random);
      words[0] = random.below(total);
      state->random = random.state();
    }
    thread.sync_block();
    return words[0];
  }

  template <class Thread>
  XLSTM_DEVICE void take(Thread& thread, int token) const {
    if (thread.index() != 0) return;
    SampledToken& to = state->tokens[state->made];
    state->made = state->made + 1;
    to.token = token;
    to.random = state->random;
    *next = token < 0 ? 0 : token;
    if (token >= 0 && state->penalty != 1) seen[token] = 1;
  }
};

/// The sampler of a backend: its options, random numbers and tokens in memory that stays where it is.
template <DeviceRuntime R>
class DeviceSampler {
 public:
  using Queue = typename R::Queue;

  explicit DeviceSampler(std::shared_ptr<R> runtime) : runtime_(std::move(runtime)) {}

  /// How often memory of this object has moved.
  Index moves() const { return moves_; }
  /// What distinguishes the kernels that sample() launches.
  int kind() const { return sorts_ ? 2 : 1; }

  /// What comes next, up to SamplingState::most_tokens tokens. seen: (vocabulary), whether the text has a token, or
  /// empty where there is no penalty.
  void begin(Queue& queue, const SamplingOptions& options, const Random::State& random,
             std::span<const std::uint8_t> seen, Index vocabulary) {
    queue.activate();
    if (!state_) {
      state_.emplace(runtime_, static_cast<Index>(sizeof(SamplingState)), "the sampler's state");
      ++moves_;
    }
    if (!seen_ || seen_->bytes() < vocabulary) {
      seen_.emplace(runtime_, vocabulary, "the sampler's tokens");
      ++moves_;
    }
    SamplingState& s = host_;
    std::copy(sampling::exponential_table.begin(), sampling::exponential_table.end(), s.exponentials);
    s.greedy = options.temperature == 0 ? 1 : 0;
    s.scale = sampling::scale(options);
    s.lowest = sampling::lowest(options);
    s.top_p = options.top_p;
    s.penalty = options.repetition_penalty;
    s.least_weight = sampling::least_weight(options);
    s.top_k = options.top_k;
    s.made = 0;
    s.random = random;
    sorts_ = s.greedy == 0 && (options.top_p < 1 || (options.top_k > 0 && options.top_k < vocabulary));
    queue.upload(state_->data(), &s, static_cast<Index>(sizeof s));
    if (!seen.empty()) queue.upload(seen_->data(), seen.data(), vocabulary);
  }

  /// Chooses a token by fp32 logits, and writes it to *next.
  void sample(Queue& queue, Arena& arena, std::span<const float> logits, Token* next) {
    const ArenaScope scope(arena);
    const auto count = static_cast<Index>(logits.size());
    auto* const state = static_cast<SamplingState*>(state_->data());
    auto* const seen = static_cast<std::uint8_t*>(seen_->data());
    float* const scores = arena.allocate<float>(count);
    std::uint32_t* order = arena.allocate<std::uint32_t>(count);
    queue.launch({static_cast<int>(ceil_div(count, ScoresKernel::threads))},
                 ScoresKernel{logits.data(), seen, state, count, scores, order});
    const float* sorted = nullptr;
    if (sorts_) {
      float* const to = arena.allocate<float>(count);
      std::uint32_t* const order_to = arena.allocate<std::uint32_t>(count);
      const Index bytes = queue.sort_bytes(count);
      queue.sort_descending(arena.allocate<std::byte>(bytes), bytes, scores, to, order, order_to, count);
      sorted = to;
      order = order_to;
    }
    queue.launch({1}, DrawKernel{logits.data(), scores, sorted, order, count, state, seen, next});
  }

  /// The tokens since begin(); waits for them.
  std::span<const SampledToken> end(Queue& queue) {
    queue.download(&host_, state_->data(), static_cast<Index>(sizeof host_));
    return {host_.tokens, static_cast<std::size_t>(host_.made)};
  }

 private:
  std::shared_ptr<R> runtime_;
  std::optional<DeviceMemory<R>> state_, seen_;
  SamplingState host_{};
  bool sorts_ = false;
  Index moves_ = 0;
};

}  // namespace xlstm::cuda
