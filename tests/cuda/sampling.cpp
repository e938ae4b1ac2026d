// SPDX-License-Identifier: Apache-2.0
// cuda/sampling.hpp: for the same logits the token of the host's sampler, and its random numbers.
#include "xlstm/cuda/sampling.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "xlstm/core/random.hpp"

using xlstm::Index;
using xlstm::Sampler;
using xlstm::SamplingOptions;
using xlstm::Token;
using xlstm::tests::DeviceRuntime;

namespace {

namespace cuda = xlstm::cuda;

constexpr float infinity = std::numeric_limits<float>::infinity();

struct Device {
  Device()
      : runtime(std::make_shared<DeviceRuntime>()),
        queue(*runtime),
        memory(runtime, "tests"),
        arena(memory),
        sampler(runtime) {}

  std::shared_ptr<DeviceRuntime> runtime;
  DeviceRuntime::Queue queue;
  cuda::DeviceArenaMemory<DeviceRuntime> memory;
  xlstm::Arena arena;
  cuda::DeviceSampler<DeviceRuntime> sampler;
};

/// The tokens that the device chooses from rows of logits, one after the other.
std::vector<cuda::SampledToken> chosen(Device& device, const SamplingOptions& options,
                                       const xlstm::Random::State& random, const std::vector<std::vector<float>>& rows,
                                       std::vector<std::uint8_t> seen = {}) {
  const auto count = static_cast<Index>(rows.front().size());
  const xlstm::ArenaScope scope(device.arena);
  float* const logits = device.arena.allocate<float>(count);
  Token* const next = device.arena.allocate<Token>(1);
  device.sampler.begin(device.queue, options, random, seen, count);
  for (const auto& row : rows) {
    device.queue.upload(logits, row.data(), count * static_cast<Index>(sizeof(float)));
    device.sampler.sample(device.queue, device.arena, {logits, row.size()}, next);
  }
  const auto tokens = device.sampler.end(device.queue);
  Token last = 0;
  device.queue.download(&last, next, sizeof last);
  CHECK(last == std::max(tokens.back().token, 0));
  return {tokens.begin(), tokens.end()};
}

/// Logits of every kind: spread out and close together, many equal, excluded ones, zeros of both signs.
std::vector<float> logits_of(Index count, std::uint64_t seed) {
  xlstm::Random random(seed);
  std::vector<float> logits;
  const double spread = seed % 3 == 0 ? 4 : seed % 3 == 1 ? 0.01 : 1;
  for (Index i = 0; i < count; ++i) {
    const std::uint64_t kind = random.below(8);
    const double value = spread * random.normal();
    logits.push_back(kind == 0   ? -infinity
                     : kind == 1 ? 0.0F
                     : kind == 2 ? -0.0F
                     : kind == 3 ? static_cast<float>(std::round(value))
                                 : static_cast<float>(value));
  }
  return logits;
}

TEST_CASE("a device chooses the tokens of the host's sampler", "[cuda]") {
  Device device;
  const std::vector<SamplingOptions> all{{},
                                         {.temperature = 1},
                                         {.temperature = 0.7, .top_k = 5},
                                         {.temperature = 1.3, .top_k = 1000},
                                         {.temperature = 1, .top_p = 0.9},
                                         {.temperature = 2, .top_k = 40, .top_p = 0.5},
                                         {.temperature = 1, .min_p = 0.05},
                                         {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .min_p = 0.02},
                                         {.temperature = 1e-300},
                                         {.temperature = 1, .top_p = 1e-9},
                                         {.repetition_penalty = 1.3},
                                         {.temperature = 1, .top_p = 0.8, .repetition_penalty = 1.2}};
  for (SamplingOptions options : all) {
    for (const Index count : {1, 31, 700}) {
      options.seed = static_cast<std::uint64_t>(count);
      INFO("temperature " << options.temperature << ", top_k " << options.top_k << ", top_p " << options.top_p
                          << ", min_p " << options.min_p << ", penalty " << options.repetition_penalty << ", " << count
                          << " logits");
      std::vector<std::vector<float>> rows;
      for (std::uint64_t seed = 0; seed < 5; ++seed) {
        rows.push_back(logits_of(count, seed));
        rows.back()[0] = 0.5F;  // one at least is not excluded
      }
      Sampler sampler(options);
      std::vector<Token> context;
      std::vector<std::uint8_t> seen;
      if (options.repetition_penalty != 1) {
        context = {0, static_cast<Token>(count / 2)};
        seen.resize(static_cast<std::size_t>(count));
        for (const Token token : context) seen[static_cast<std::size_t>(token)] = 1;
      }
      const auto found = chosen(device, options, sampler.state(), rows, seen);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        CHECK(found[i].token == sampler.sample(rows[i], context));
        CHECK(found[i].random == sampler.state());
        context.push_back(found[i].token);
      }
    }
  }
}

TEST_CASE("logits that the host's sampler refuses give no token, and the next ones do", "[cuda]") {
  Device device;
  const std::vector<float> good{0, 3, 1};
  for (const SamplingOptions& options : {SamplingOptions{}, SamplingOptions{.temperature = 1, .top_k = 2}}) {
    for (const std::vector<float>& bad :
         {std::vector<float>{0, std::nanf(""), 1}, {0, infinity, 1}, {-infinity, -infinity, -infinity}}) {
      Sampler sampler(options);
      CHECK_THROWS_AS(sampler.sample(bad), xlstm::Error);
      const auto found = chosen(device, options, sampler.state(), {bad, good});
      CHECK(found[0].token == -1);
      CHECK(found[1].token == sampler.sample(good));
    }
  }
}

}  // namespace
