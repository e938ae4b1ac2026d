// SPDX-License-Identifier: Apache-2.0
// The next token from the logits: greedy, or drawn at random after the usual filters, in the order of Hugging Face's
// generation: repetition penalty (Keskar et al. 2019), temperature, top-k (Fan et al. 2018), top-p (Holtzman et al.
// 2020), min-p (Nguyen et al. 2024).
//
// The same seed draws the same tokens on every machine: logits are compared, subtracted and scaled in double by single
// operations, which IEEE 754 rounds the same everywhere (no sum of products that a compiler might fuse); the
// exponential is our own, in integers, since libraries' differ in the last bit; and probabilities are integers, so that
// no sum depends on its order. Only -ffast-math takes that away.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/random.hpp"

namespace xlstm {

/// How a token is chosen. The defaults are greedy.
struct SamplingOptions {
  double temperature = 0;  ///< 0: the likeliest token, the lowest number of equals
  Index top_k = 0;         ///< keep the k likeliest; 0: all
  double top_p = 1;        ///< keep the likeliest whose probabilities together reach p; 1: all
  double min_p = 0;        ///< keep those at least this fraction as likely as the likeliest; 0: all
  double repetition_penalty =
      1;  ///< divides positive logits of tokens in the context, multiplies negative ones; 1: none
  std::uint64_t seed = 0;

  /// Error that names the first option outside its range.
  void check() const {
    const auto need = [](bool holds, std::string_view name, auto value, std::string_view range) {
      if (!holds) fail("sampling: ", name, " is ", value, ", expected ", range);
    };
    need(temperature >= 0 && std::isfinite(temperature), "temperature", temperature, "a finite number of at least 0");
    need(top_k >= 0, "top_k", top_k, "an integer of at least 0");
    need(top_p > 0 && top_p <= 1, "top_p", top_p, "a number above 0 and at most 1");
    need(min_p >= 0 && min_p <= 1, "min_p", min_p, "a number from 0 to 1");
    need(repetition_penalty > 0 && std::isfinite(repetition_penalty), "repetition_penalty", repetition_penalty,
         "a finite number above 0");
  }
};

namespace sampling {

/// exp(−i/256) in units of 2^-31, for i/256 up to ln 2 and a little more: Taylor's series in integers.
inline constexpr std::array<std::uint32_t, 178> exponential_table = [] {
  constexpr int fraction = 48;
  std::array<std::uint32_t, 178> table{};
  for (std::uint64_t i = 0; i < table.size(); ++i) {
    // Horner: 1 − r/1·(1 − r/2·(1 − …)) with r = i/256, an integer multiple of 2^-8.
    std::uint64_t sum = std::uint64_t{1} << fraction;
    for (std::uint64_t k = 18; k >= 1; --k) sum = (std::uint64_t{1} << fraction) - (sum * i / k >> 8);
    table[i] = static_cast<std::uint32_t>((sum + (std::uint64_t{1} << (fraction - 32))) >> (fraction - 31));
  }
  return table;
}();

/// exp(x) for x <= 0 in units of 2^-40, rounded down, by integer arithmetic: x = −n·ln 2 − i/256 − d, where exp(−i/256)
/// comes from the table and exp(−d) from three terms of its series. Relative error below 2^-28 before the rounding.
constexpr std::uint64_t exponential(double x, const std::uint32_t* table = exponential_table.data()) {
  constexpr std::uint64_t one = std::uint64_t{1} << 40, ln2 = 0xB17217F7D2U;  // ln 2 in units of 2^-40
  if (!(x > -28)) return 0;                                                   // below 2^-40
  const auto magnitude = static_cast<std::uint64_t>(-x * 0x1p40);
  const std::uint64_t n = magnitude / ln2, rest = magnitude % ln2;
  const std::uint64_t d = rest & 0xffffffffU, d2 = d * d >> 40, d3 = d2 * d >> 40;
  const std::uint64_t small = one - d + d2 / 2 - d3 / 6;
  return (small >> 8) * table[rest >> 32] >> 23 >> n;
}

/// The score of a token that the text has already: what is excluded stays so, what is not stays finite.
constexpr float penalized(float logit, double penalty) {
  constexpr double largest = std::numeric_limits<float>::max();
  if (logit == -std::numeric_limits<float>::infinity()) return logit;
  const double score = logit < 0 ? logit * penalty : logit / penalty;
  return static_cast<float>(score > largest ? largest : score < -largest ? -largest : score);
}

/// 1 / temperature, finite: 0 · ∞ is not a number.
inline double scale(const SamplingOptions& options) { return std::min(1 / options.temperature, 0x1p1000); }
/// The lowest (score − best) · scale that matters: where min_p comes alone, what it will drop for certain does not.
inline double lowest(const SamplingOptions& options) {
  return options.min_p > 0 && options.top_p >= 1 ? std::log(options.min_p) - 0.001 : -28;
}
/// The least weight that min_p keeps; the likeliest token has 2^40.
inline std::uint64_t least_weight(const SamplingOptions& options) {
  return options.min_p > 0 ? static_cast<std::uint64_t>(std::ceil(options.min_p * 0x1p40)) : 0;
}

}  // namespace sampling

/// Chooses tokens. Keeps its random numbers' state and its memory from one token to the next.
class Sampler {
 public:
  /// Error for options outside their ranges.
  explicit Sampler(const SamplingOptions& options = {}) : options_(options), random_(options.seed) { options.check(); }

  const SamplingOptions& options() const { return options_; }

  /// The state of the random numbers, to go on later where this sampler stands.
  const Random::State& state() const { return random_.state(); }
  void set_state(const Random::State& state) { random_ = Random(state); }

  /// The token that follows `context` (needed for the repetition penalty alone), given the logits (vocab). −∞ excludes
  /// a token. Error for a NaN, +∞, or if every token is excluded. Draws one random number unless it is greedy.
  /// Allocates nothing once the memory is warm.
  Token sample(std::span<const float> logits, std::span<const Token> context = {}) {
    check(logits);
    const std::span<const float> scores = penalized(logits, context);
    const auto best = std::max_element(scores.begin(), scores.end());
    if (*best == excluded) fail("sampling: every logit is -inf, expected one that is not");
    if (options_.temperature == 0) return static_cast<Token>(best - scores.begin());
    weigh(scores, *best, least_of_top_k(scores));
    keep_top_p();
    keep_min_p();
    return draw();
  }

 private:
  struct Candidate {
    float score;
    Token token;
    std::uint64_t weight;  // exp((score − best) / temperature), in units of 2^-40
  };

  static bool likelier(const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score > b.score : a.token < b.token;
  }

  static void check(std::span<const float> logits) {
    if (logits.empty()) fail("sampling: there are no logits, expected at least one");
    // One pass that the compiler can vectorise; the exact place is looked up only where something is wrong.
    bool good = true;
    for (const float logit : logits) good &= logit < std::numeric_limits<float>::infinity();
    if (good) return;
    const auto wrong = std::find_if(logits.begin(), logits.end(),
                                    [](float logit) { return !(logit < std::numeric_limits<float>::infinity()); });
    fail("sampling: the logit of token ", wrong - logits.begin(), " is ", *wrong, ", expected a number or -inf");
  }

  std::span<const float> penalized(std::span<const float> logits, std::span<const Token> context) {
    if (options_.repetition_penalty == 1 || context.empty()) return logits;
    scores_.assign(logits.begin(), logits.end());
    for (const Token token : context) {
      if (token < 0 || token >= static_cast<Token>(logits.size())) {
        fail("sampling: the context holds token ", token, ", expected 0 to ", logits.size() - 1);
      }
      const auto i = static_cast<std::size_t>(token);
      // Of logits, not scores_: a token is penalised once, however often it occurs.
      scores_[i] = sampling::penalized(logits[i], options_.repetition_penalty);
    }
    return scores_;
  }

  // The k-th largest score; what is as likely as that stays too, as in the reference.
  float least_of_top_k(std::span<const float> scores) {
    constexpr std::size_t few = 1024;
    const auto k = static_cast<std::size_t>(options_.top_k);
    if (k == 0 || k >= scores.size()) return excluded;
    const auto larger = std::greater<float>();
    if (k > few) {
      top_.assign(scores.begin(), scores.end());
      std::nth_element(top_.begin(), top_.begin() + static_cast<Index>(k) - 1, top_.end(), larger);
      return top_[k - 1];
    }
    top_.assign(scores.begin(), scores.begin() + static_cast<Index>(k));  // the k largest so far, the least in front
    std::make_heap(top_.begin(), top_.end(), larger);
    for (const float score : scores.subspan(k)) {
      if (score <= top_.front()) continue;
      std::pop_heap(top_.begin(), top_.end(), larger);
      top_.back() = score;
      std::push_heap(top_.begin(), top_.end(), larger);
    }
    return top_.front();
  }

  // Candidates are the tokens of at least this score whose weight is not 0, by their numbers.
  void weigh(std::span<const float> scores, float best, float least) {
    const double scale = sampling::scale(options_), lowest = sampling::lowest(options_);
    candidates_.resize(scores.size());
    std::size_t count = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double x = (static_cast<double>(scores[i]) - static_cast<double>(best)) * scale;
      if (scores[i] < least || x < lowest) continue;
      const std::uint64_t weight = sampling::exponential(x);
      candidates_[count] = {scores[i], static_cast<Token>(i), weight};
      count += weight > 0 ? 1 : 0;
    }
    candidates_.resize(count);
  }

  std::uint64_t total() const {
    std::uint64_t sum = 0;
    for (const Candidate& candidate : candidates_) sum += candidate.weight;
    return sum;
  }

  // Keeps the fewest likeliest candidates whose weights reach p of all.
  void keep_top_p() {
    if (options_.top_p >= 1) return;
    const std::uint64_t all = total();
    const auto needed = static_cast<std::uint64_t>(std::ceil(options_.top_p * static_cast<double>(all)));
    const Candidate last = last_needed(std::clamp<std::uint64_t>(needed, 1, all));
    std::erase_if(candidates_, [&](const Candidate& c) { return likelier(last, c); });
  }

  // The candidate with which the likeliest reach `needed`. First by bins of nearly equal weights, then, among the
  // candidates of the bin where it lies, by selection, which halves the range.
  Candidate last_needed(std::uint64_t needed) {
    const auto bin_of = [](std::uint64_t weight) {  // the exponent and six bits below the leading one
      const auto width = static_cast<std::size_t>(std::bit_width(weight));
      const std::uint64_t seven = width > 7 ? weight >> (width - 7) : weight << (7 - width);
      return width * 64 + static_cast<std::size_t>(seven & 63);
    };
    bins_.assign(42 * 64, 0);
    for (const Candidate& candidate : candidates_) bins_[bin_of(candidate.weight)] += candidate.weight;
    std::size_t bin = bins_.size() - 1;
    while (bins_[bin] < needed) needed -= bins_[bin--];
    ordered_.clear();
    for (const Candidate& candidate : candidates_) {
      if (bin_of(candidate.weight) == bin) ordered_.push_back(candidate);
    }
    auto first = ordered_.begin(), end = ordered_.end();
    while (end - first > 1) {
      const auto middle = first + (end - first) / 2;
      std::nth_element(first, middle, end, likelier);
      std::uint64_t sum = 0;
      for (auto c = first; c != middle; ++c) sum += c->weight;
      if (sum >= needed) {
        end = middle;
      } else {
        needed -= sum;
        first = middle;
      }
    }
    return *first;
  }

  void keep_min_p() {
    if (options_.min_p <= 0) return;
    const std::uint64_t least = sampling::least_weight(options_);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < least; });
  }

  Token draw() {
    std::uint64_t position = random_.below(total());
    std::size_t i = 0;
    while (position >= candidates_[i].weight) position -= candidates_[i++].weight;
    return candidates_[i].token;
  }

  static constexpr float excluded = -std::numeric_limits<float>::infinity();

  SamplingOptions options_;
  Random random_;
  std::vector<float> scores_, top_;
  std::vector<Candidate> candidates_, ordered_;
  std::vector<std::uint64_t> bins_;
};

}  // namespace xlstm
