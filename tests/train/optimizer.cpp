// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/optimizer.hpp"

#include <cmath>

#include "catch.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;

namespace {
constexpr ModelConfig tiny{.vocab_size = 301,
                           .embedding_dim = 32,
                           .num_blocks = 1,
                           .num_heads = 2,
                           .use_bias = true,
                           .ffn_round_up_to_multiple_of = 16};
using Net = Network<tiny>;

template <class T>
T* block(Weights<Net, reference::Backend<T>>& w) {
  return reinterpret_cast<T*>(w.memory.data());
}
}  // namespace

TEST_CASE("A step worked out by hand") {
  // θ = 1, g = 2·0.5: m = 0.1, v = 0.05; corrected both are 1; θ = 1 − 0.1·(1/(1 + 0) + 0.3·1) = 0.87
  reference::Backend<double> backend;
  double theta = 1, g = 2, m = 0, v = 0;
  backend.adamw(&theta, &g, &m, &v, 1, {0.1, 0.9, 0.95, 0, 0.3, 0.5, 1});
  CHECK(m == Approx(0.1));
  CHECK(v == Approx(0.05));
  CHECK(theta == Approx(0.87));
  CHECK(g == 0);
  // Second step, g was used up: m = 0.09, c₁ = 0.19; v = 0.0475, c₂ = 0.0975
  backend.adamw(&theta, &g, &m, &v, 1, {0.1, 0.9, 0.95, 0, 0, 1, 2});
  CHECK(theta == Approx(0.87 - 0.1 * (0.09 / 0.19) / std::sqrt(0.0475 / 0.0975)));
}

TEST_CASE("Decay shrinks matrices alone: with no gradient, norms and biases stay") {
  using B = reference::Backend<double>;
  Weights<Net, B> weights = allocate_weights<Net, B>();
  Weights<Net, B> gradients = allocate_weights<Net, B>();
  for (Index i = 0; i < weights.memory.bytes() / 8; ++i) block(weights)[i] = 2;
  AdamW<Net, B> optimizer({.weight_decay = 0.1});
  B backend;
  optimizer.update(backend, block(weights), block(gradients), 0.5, 1);
  Index matrices = 0;
  for (const ParameterRange& r : optimizer.ranges()) {
    INFO(r.name);
    const bool weight_matrix = r.name.ends_with(".weight") && r.name.find("norm") == std::string::npos;
    matrices += weight_matrix ? 1 : 0;
    for (Index i = 0; i < r.count; ++i) {
      REQUIRE(block(weights)[r.offset + i] == Approx(weight_matrix ? 2 * (1 - 0.5 * 0.1) : 2.0));
    }
  }
  CHECK(matrices == 2 + 7 + 3);
}

TEST_CASE("The CPU's AdamW follows the reference over many steps") {
  using C = cpu::Backend<float>;
  using R = reference::Backend<double>;
  Weights<Net, C> weights = allocate_weights<Net, C>();
  Weights<Net, R> expected = allocate_weights<Net, R>();
  AdamW<Net, C> optimizer({});
  AdamW<Net, R> reference({});
  C backend;
  R reference_backend;
  const Index count = weights.memory.bytes() / 4;
  auto* const w = reinterpret_cast<float*>(weights.memory.data());
  std::vector<float> g(static_cast<std::size_t>(count));
  Random random(5);
  std::vector<double> e(g.size()), eg(g.size());
  const auto& ranges = optimizer.ranges();
  const auto& wide_ranges = reference.ranges();
  const Index wide = expected.memory.bytes() / 8;
  eg.resize(static_cast<std::size_t>(wide));
  for (int step = 0; step < 20; ++step) {
    for (std::size_t r = 0; r < ranges.size(); ++r) {
      for (Index i = 0; i < ranges[r].count; ++i) {
        const double value = random.normal();
        g[static_cast<std::size_t>(ranges[r].offset + i)] = static_cast<float>(value);
        eg[static_cast<std::size_t>(wide_ranges[r].offset + i)] = static_cast<float>(value);
      }
    }
    optimizer.update(backend, w, g.data(), 1e-2, 0.7);
    reference.update(reference_backend, block(expected), eg.data(), 1e-2, 0.7);
  }
  CHECK(optimizer.updates() == 20);
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    for (Index i = 0; i < ranges[r].count; ++i) {
      REQUIRE(std::abs(static_cast<double>(w[ranges[r].offset + i]) - block(expected)[wide_ranges[r].offset + i]) <
              2e-6);
    }
  }
}

TEST_CASE("Options that can't work are errors") {
  using Optimizer = AdamW<Net, reference::Backend<double>>;
  CHECK_THROWS_AS(Optimizer({.beta1 = 1}), Error);
  CHECK_THROWS_AS(Optimizer({.beta2 = -0.1}), Error);
  CHECK_THROWS_AS(Optimizer({.eps = 0}), Error);
  CHECK_THROWS_AS(Optimizer({.weight_decay = NAN}), Error);
  CHECK_THROWS_AS(Optimizer({.weight_decay = INFINITY}), Error);
  CHECK_THROWS_AS(Optimizer({.eps = INFINITY}), Error);
}
