// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/loss.hpp"

#include <cmath>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/weights.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig sizes{.vocab_size = 37,
                            .embedding_dim = 16,
                            .num_blocks = 1,
                            .num_heads = 2,
                            .ffn_round_up_to_multiple_of = 8,
                            .output_logit_soft_cap = 5.0};
constexpr ModelConfig with_tied_embeddings = [] {
  ModelConfig c = sizes;
  c.tie_word_embeddings = true;
  return c;
}();

constexpr Index rows = 11;

template <class N, class B>
struct Case {
  using T = typename B::Arithmetic;
  Case() : weights(allocate_weights<N, B>()), gradients(allocate_weights<N, B>()) {
    initialize(weights, 7);
    Random random(3);
    for (auto& h : hidden) h = static_cast<T>(3 * random.normal());
    for (auto& t : targets) t = static_cast<Token>(random.below(N::vocab_size));
    targets[4] = ignored_target;
  }
  Input<B, N::embedding_dim> rows_of_hidden() const { return {hidden.data(), rows}; }
  LossSum backward(const LossOptions& options, double scale = 1) {
    dhidden.assign(hidden.size(), T(9));  // must be overwritten
    return loss_backward<N, B>(backend, weights.parameters, gradients.parameters, rows_of_hidden(), targets, options,
                               scale, {dhidden.data(), rows});
  }
  LossSum value(const LossOptions& options) {
    return loss<N, B>(backend, weights.parameters, rows_of_hidden(), targets, options);
  }

  B backend;
  Weights<N, B> weights, gradients;
  std::vector<T> hidden = std::vector<T>(rows * N::embedding_dim);
  std::vector<T> dhidden;
  std::vector<Token> targets = std::vector<Token>(rows);
};

double total(const LossSum& sum, const LossOptions& options) { return sum.nll + options.z_loss * sum.z_loss; }

}  // namespace

TEMPLATE_TEST_CASE("The loss's gradient is that of central differences in double, through cap and head", "",
                   (Network<sizes>), (Network<with_tied_embeddings>)) {
  using N = TestType;
  Case<N, reference::Backend<double>> c;
  const LossOptions options{.z_loss = 0.3, .slice_bytes = 3 * 37 * 8};
  constexpr double scale = 0.7;
  c.backward(options, scale);

  constexpr double step = 1e-5;
  const auto difference = [&](double& x) {
    const double before = x;
    x = before + step;
    const double above = total(c.value(options), options);
    x = before - step;
    const double below = total(c.value(options), options);
    x = before;
    return scale * (above - below) / (2 * step);
  };
  for (std::size_t i = 0; i < c.hidden.size(); i += 5) {
    CHECK(c.dhidden[i] == Approx(difference(c.hidden[i])).margin(1e-7));
  }
  double* const head = N::head(c.weights.parameters).data();
  const double* const dhead = N::head(c.gradients.parameters).data();
  for (Index i = 0; i < N::vocab_size * N::embedding_dim; i += 13) {
    CHECK(dhead[i] == Approx(difference(head[i])).margin(1e-7));
  }
}

TEST_CASE("An ignored target adds nothing to the sums and sends no gradient back") {
  Case<Network<sizes>, reference::Backend<double>> c;
  CHECK(c.backward({}).targets == rows - 1);
  for (Index i = 0; i < sizes.embedding_dim; ++i) {
    CHECK(c.dhidden[static_cast<std::size_t>(4 * sizes.embedding_dim + i)] == 0);
    CHECK(c.dhidden[static_cast<std::size_t>(5 * sizes.embedding_dim + i)] != 0);
  }
}

TEMPLATE_TEST_CASE("Slices of any size give the loss and gradient of the whole", "", (reference::Backend<double>),
                   (cpu::Backend<float>)) {
  using B = TestType;
  using T = typename B::Arithmetic;
  Case<Network<sizes>, B> whole;
  const LossSum expected = whole.backward({.z_loss = 0.1});
  const T* const expected_head = whole.gradients.parameters.head.data();
  const double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-12;
  for (const Index slice_rows : {1, 2, 5, 10}) {
    Case<Network<sizes>, B> sliced;
    const LossOptions options{.z_loss = 0.1, .slice_bytes = slice_rows * 37 * Index{sizeof(T)}};
    const LossSum sum = sliced.backward(options);
    CHECK(sum.nll == Approx(expected.nll).epsilon(tolerance));
    CHECK(sum.z_loss == Approx(expected.z_loss).epsilon(tolerance));
    CHECK(sum.targets == expected.targets);
    CHECK(sliced.value(options).nll == Approx(expected.nll).epsilon(tolerance));
    for (std::size_t i = 0; i < whole.dhidden.size(); ++i) {
      CHECK(std::abs(sliced.dhidden[i] - whole.dhidden[i]) <= T(tolerance));
    }
    for (Index i = 0; i < sizes.vocab_size * sizes.embedding_dim; ++i) {
      CHECK(std::abs(sliced.gradients.parameters.head.data()[i] - expected_head[i]) <= T(10 * tolerance));
    }
  }
}

TEST_CASE("A slice holds as many rows as its bytes allow, evenly spread, and at least one") {
  CHECK(loss_slice_rows<float>(8192, 50304, Index{1} << 24) * 50304 * 4 <= Index{1} << 24);
  CHECK(loss_slice_rows<float>(512, 50304, Index{200} << 20) == 512);
  CHECK(loss_slice_rows<float>(512, 50304, 300 * 50304 * 4) == 256);
  CHECK(loss_slice_rows<float>(512, 50304, 1) == 1);
  CHECK(loss_slice_rows<double>(1, 10, 0) == 1);
}
