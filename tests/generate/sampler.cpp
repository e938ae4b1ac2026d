// SPDX-License-Identifier: Apache-2.0
#include "xlstm/generate/sampler.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"

using xlstm::Index;
using xlstm::Sampler;
using xlstm::SamplingOptions;
using xlstm::Token;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

std::string message(const SamplingOptions& options) {
  try {
    Sampler sampler(options);
  } catch (const xlstm::Error& error) {
    return error.what();
  }
  return {};
}

// How often each token is drawn.
std::vector<int> histogram(const SamplingOptions& options, const std::vector<float>& logits, int draws,
                           const std::vector<Token>& context = {}) {
  Sampler sampler(options);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sampler.sample(logits, context))];
  return counts;
}

std::vector<float> random_logits(std::size_t n, std::uint64_t seed, double scale) {
  xlstm::Random random(seed);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = static_cast<float>((random.uniform() - 0.5) * scale);
  return logits;
}

}  // namespace

TEST_CASE("temperature 0 takes the likeliest token, the lowest number of equals") {
  Sampler sampler;
  CHECK(sampler.sample(std::vector<float>{-1, 3, 2, 3, -inf}) == 1);
  CHECK(sampler.sample(std::vector<float>{-inf, -inf, -5}) == 2);
  CHECK(sampler.sample(std::vector<float>{0}) == 0);
}

TEST_CASE("the integer exponential is exp, and never grows where its argument falls") {
  CHECK(xlstm::sampling::exponential(0) == std::uint64_t{1} << 40);
  CHECK(xlstm::sampling::exponential(-28) == 0);
  CHECK(xlstm::sampling::exponential(-1e300) == 0);
  CHECK(xlstm::sampling::exponential(-static_cast<double>(inf)) == 0);
  std::uint64_t previous = std::uint64_t{1} << 40;
  for (int i = 0; i < 280000; ++i) {
    const double x = -1e-4 * i;
    const std::uint64_t weight = xlstm::sampling::exponential(x);
    const double expected = std::exp(x) * 0x1p40;
    if (std::abs(static_cast<double>(weight) - expected) > 1 + expected * 0x1p-28) FAIL("exp(" << x << ") is off");
    if (weight > previous) FAIL("exp grows at " << x);
    previous = weight;
  }
}

TEST_CASE("tokens are drawn with the probabilities that logits and temperature give") {
  const std::vector<float> logits{0, 1, 2, -inf, -1};
  SamplingOptions options;
  options.temperature = GENERATE(0.5, 1.0, 3.0);
  constexpr int draws = 100000;
  const auto counts = histogram(options, logits, draws);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit / options.temperature);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] / options.temperature) / sum;
    CHECK(std::abs(counts[i] - p * draws) <= 5 * std::sqrt(p * (1 - p) * draws));
  }
}

TEST_CASE("top_k keeps the k likeliest and what is as likely as the last of them") {
  SamplingOptions options;
  options.temperature = 1;
  const std::vector<float> logits{1, 3, 2, 2, 0};
  options.top_k = 1;
  CHECK(histogram(options, logits, 100)[1] == 100);
  options.top_k = 2;
  const auto two = histogram(options, logits, 2000);
  CHECK((two[0] == 0 && two[1] > 0 && two[2] > 0 && two[3] > 0 && two[4] == 0));
  options.top_k = 4;
  CHECK(histogram(options, logits, 2000)[0] > 0);
  CHECK(histogram(options, logits, 2000)[4] == 0);
  options.top_k = 99;
  CHECK(histogram(options, logits, 2000)[4] > 0);
}

TEST_CASE("top_k takes the same tokens by a heap and by selection") {
  // 1024 candidates are kept in a heap, more are selected: 1025 of 1025 distinct ones differ by the least likely only.
  const auto logits = random_logits(4000, 3, 8);
  for (const Index k : {Index{1024}, Index{1025}}) {
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    SamplingOptions options;
    options.temperature = 100;  // nearly uniform
    options.top_k = k;
    const auto counts = histogram(options, logits, 16000);
    Index kept = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      if (counts[i] > 0) ++kept;
      if (logits[i] < sorted[static_cast<std::size_t>(k - 1)]) CHECK(counts[i] == 0);
    }
    CHECK(kept == k);
  }
}

TEST_CASE("top_p keeps the fewest tokens that reach p together") {
  SamplingOptions options;
  options.temperature = 1;
  const std::vector<float> logits{std::log(0.1F), std::log(0.5F), std::log(0.3F), std::log(0.1F)};
  options.top_p = 0.49;
  CHECK(histogram(options, logits, 500) == std::vector<int>{0, 500, 0, 0});
  options.top_p = 0.79;
  const auto two = histogram(options, logits, 2000);
  CHECK((two[0] == 0 && two[1] > 0 && two[2] > 0 && two[3] == 0));
  options.top_p = 0.85;  // of equals the lower number stays
  const auto three = histogram(options, logits, 2000);
  CHECK((three[0] > 0 && three[3] == 0));
  options.top_p = 1e-9;
  CHECK(histogram(options, logits, 500)[1] == 500);
}

TEST_CASE("top_p agrees with sorting everything") {
  const auto logits = random_logits(3000, 5, GENERATE(1.0, 10.0, 40.0));
  SamplingOptions options;
  options.temperature = 1;
  options.top_p = GENERATE(0.05, 0.5, 0.95);
  std::vector<double> sorted(logits.begin(), logits.end());
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double total = 0, sum = 0;
  for (const double logit : sorted) total += std::exp(logit);
  std::size_t kept = 0;
  while (sum < options.top_p * total) sum += std::exp(sorted[kept++]);
  const auto counts = histogram(options, logits, 4000);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < sorted[std::min(kept, sorted.size() - 1)]) CHECK(counts[i] == 0);
  }
}

TEST_CASE("min_p keeps what is at least that fraction as likely as the likeliest") {
  SamplingOptions options;
  options.temperature = 1;
  options.min_p = 0.25;
  const std::vector<float> logits{0, std::log(0.26F), std::log(0.24F)};
  const auto counts = histogram(options, logits, 2000);
  CHECK((counts[0] > 0 && counts[1] > 0 && counts[2] == 0));
  options.min_p = 1;
  CHECK(histogram(options, logits, 500)[0] == 500);
}

TEST_CASE("the repetition penalty divides positive and multiplies negative logits, once for each token") {
  SamplingOptions options;
  options.repetition_penalty = 2;
  Sampler sampler(options);
  CHECK(sampler.sample(std::vector<float>{3, 2}, std::vector<Token>{0}) == 1);
  CHECK(sampler.sample(std::vector<float>{3, 1.4F}, std::vector<Token>{0, 0, 0}) == 0);
  CHECK(sampler.sample(std::vector<float>{-1, -1.9F}, std::vector<Token>{0}) == 1);
  CHECK(sampler.sample(std::vector<float>{-3e38F, -inf}, std::vector<Token>{0, 1}) == 0);
  CHECK_THROWS_AS(sampler.sample(std::vector<float>{1, 2}, std::vector<Token>{2}), xlstm::Error);
  CHECK_THROWS_AS(sampler.sample(std::vector<float>{1, 2}, std::vector<Token>{-1}), xlstm::Error);
}

TEST_CASE("a seed determines the tokens, for good") {
  SamplingOptions options;
  options.temperature = 0.8;
  options.top_k = 40;
  options.top_p = 0.95;
  options.min_p = 0.01;
  options.seed = 7;
  const auto logits = random_logits(1000, 1, 12);
  const auto draw = [&](Sampler& sampler) {
    std::vector<Token> tokens;
    for (int i = 0; i < 8; ++i) tokens.push_back(sampler.sample(logits));
    return tokens;
  };
  Sampler one(options), two(options);
  const auto tokens = draw(one);
  CHECK(tokens == draw(two));
  CHECK(tokens == std::vector<Token>{881, 304, 509, 603, 29, 251, 972, 489});
  SECTION("and its state can be kept") {
    const auto state = one.state();
    const auto next = draw(one);
    two.set_state(state);
    CHECK(draw(two) == next);
  }
  SECTION("another seed draws others") {
    options.seed = 8;
    Sampler other(options);
    CHECK(draw(other) != tokens);
  }
}

TEST_CASE("extreme temperatures are still distributions") {
  SamplingOptions options;
  options.temperature = 1e-300;
  CHECK(histogram(options, {1, 2, 2, 0}, 100)[0] == 0);
  options.temperature = 1e300;
  CHECK(histogram(options, {-1e30F, 1e30F}, 1000)[0] > 400);
}

TEST_CASE("logits that are no numbers are errors that name the token") {
  Sampler sampler;
  CHECK_THROWS_WITH(sampler.sample(std::vector<float>{0, std::nanf("")}), Contains("token 1") && Contains("nan"));
  CHECK_THROWS_WITH(sampler.sample(std::vector<float>{inf, 0}), Contains("token 0") && Contains("inf"));
  CHECK_THROWS_WITH(sampler.sample(std::vector<float>{-inf, -inf}), Contains("every logit"));
  CHECK_THROWS_AS(sampler.sample(std::vector<float>{}), xlstm::Error);
}

TEST_CASE("options outside their ranges are errors that name option, value and range") {
  const double nan = std::nan("");
  SamplingOptions options;
  CHECK(message(options).empty());
  SECTION("temperature") {
    options.temperature = GENERATE_COPY(-0.5, nan, static_cast<double>(inf));
    CHECK_THAT(message(options), Contains("temperature") && Contains("expected a finite number of at least 0"));
  }
  SECTION("top_k") {
    options.top_k = -3;
    CHECK_THAT(message(options), Contains("top_k is -3") && Contains("at least 0"));
  }
  SECTION("top_p") {
    options.top_p = GENERATE_COPY(0.0, -1.0, 1.5, nan);
    CHECK_THAT(message(options), Contains("top_p") && Contains("above 0 and at most 1"));
  }
  SECTION("min_p") {
    options.min_p = GENERATE_COPY(-0.1, 1.1, nan);
    CHECK_THAT(message(options), Contains("min_p") && Contains("from 0 to 1"));
  }
  SECTION("repetition_penalty") {
    options.repetition_penalty = GENERATE_COPY(0.0, -2.0, nan);
    CHECK_THAT(message(options), Contains("repetition_penalty") && Contains("above 0"));
  }
}
