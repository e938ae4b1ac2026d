// SPDX-License-Identifier: Apache-2.0
// Sequences longer than memory are trained in pieces without truncation: states go forward from piece to piece, their
// gradients backward. The gradient is that of the whole sequence, on a whole model.
#include <array>
#include <cmath>

#include "catch.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/weights.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig config{
    .vocab_size = 19, .embedding_dim = 16, .num_blocks = 2, .num_heads = 2, .ffn_round_up_to_multiple_of = 4};
using N = Network<config>;
constexpr Index length = 21;

/// The gradient of Σ weight ⊙ hidden over a sequence cut at `cuts`; every state handed on, every gradient handed back.
template <class B>
std::vector<double> gradient(const std::vector<Index>& cuts) {
  using T = typename B::Arithmetic;
  Weights<N, B> weights = allocate_weights<N, B>();
  Weights<N, B> gradients = allocate_weights<N, B>();
  Random random(3);
  for_each_parameter<N>(weights.parameters, [&](std::string_view, auto& handle, Initialization start) {
    const bool norm = start.kind == Initialization::Kind::constant && start.first == 1;
    for (Index i = 0; i < handle.count; ++i) {
      handle.data()[i] = static_cast<T>(static_cast<float>((norm ? 1 : 0) + 0.4 * random.normal()));
    }
  });
  std::vector<Token> tokens;
  for (Index t = 0; t < length; ++t) tokens.push_back(static_cast<Token>(random.below(19)));
  std::vector<T> dhidden(static_cast<std::size_t>(length * config.embedding_dim));
  for (T& d : dhidden) d = static_cast<T>(static_cast<float>(random.normal()));

  B backend;
  ArenaScope scope(backend.arena());
  std::vector<T> state(static_cast<std::size_t>(N::state_size));
  std::vector<T> dstate(state.size());
  T* slot = state.data();
  T* dslot = dstate.data();
  const std::size_t pieces = cuts.size() - 1;
  std::vector<typename N::template Saved<B>> saved(pieces);
  const auto run_of = [&](std::size_t i) {
    return Run{.sequences = 1, .length = cuts[i + 1] - cuts[i], .chunk_size = 4, .training = true};
  };
  for (std::size_t i = 0; i < pieces; ++i) {
    const Run run = run_of(i);
    const auto hidden = backend.arena().template matrix<T, config.embedding_dim>(run.length);
    N::template hidden<B>(
        backend, weights.parameters, run, {&slot, 0},
        std::span(tokens).subspan(static_cast<std::size_t>(cuts[i]), static_cast<std::size_t>(run.length)), hidden,
        saved[i]);
  }
  for (std::size_t i = pieces; i-- > 0;) {
    const Run run = run_of(i);
    N::template hidden_backward<B>(backend, weights.parameters, gradients.parameters, run, {&dslot, 0}, saved[i],
                                   {dhidden.data() + cuts[i] * config.embedding_dim, run.length});
  }
  std::vector<double> all;
  for_each_parameter<N>(gradients.parameters, [&](std::string_view, auto& handle, Initialization) {
    all.insert(all.end(), handle.data(), handle.data() + handle.count);
  });
  return all;
}

double relative_difference(const std::vector<double>& found, const std::vector<double>& expected) {
  double difference = 0;
  double largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!std::isfinite(found[i])) return INFINITY;
    difference = std::max(difference, std::abs(found[i] - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return difference / largest;
}

}  // namespace

TEST_CASE("the gradient through pieces is the gradient through the whole") {
  const auto whole = gradient<reference::Backend<double>>({0, length});
  for (const auto& cuts : {std::vector<Index>{0, 10, length}, {0, 1, 7, 20, length}}) {
    CHECK(relative_difference(gradient<reference::Backend<double>>(cuts), whole) < 1e-10);
    CHECK(relative_difference(gradient<cpu::Backend<float>>(cuts), whole) < 2e-4);  // the cell's tolerance in fp32
  }
  CHECK(relative_difference(gradient<cpu::Backend<float>>({0, length}), whole) < 2e-4);
}
