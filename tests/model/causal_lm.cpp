// SPDX-License-Identifier: Apache-2.0
// A language model's gradient through its states: into the first, from the last, to every parameter, against central
// differences in double. Their steps are short, as norms of norms make a curved function. From tokens to loss:
// tests/train/model_gradient.cpp.
#include "xlstm/model/causal_lm.hpp"

#include <vector>

#include "catch.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/testing/gradient_check.hpp"

using namespace xlstm;

namespace {

/// A model's hidden rows as a module: the tokens are always the same, the input counts for nothing.
template <class LM>
struct HiddenRows {
  static constexpr Index input_dim = 1;
  static constexpr Index output_dim = LM::embedding_dim;
  static constexpr Index state_size = LM::state_size;
  template <class B>
  using Parameters = typename LM::template Parameters<B>;
  template <class B>
  using Saved = typename LM::template Saved<B>;

  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    LM::for_each_parameter(p, visit);
  }
  template <class V>
  static void for_each_state(const V& visit, const std::string& prefix, Index base) {
    LM::for_each_state(visit, prefix, base);
  }
  template <class S>
  static double state_unit(const S* state, Index i) {
    return xlstm::state_unit<LM>(state, i);
  }
  template <class B>
  static void forward(B& backend, const Parameters<B>& p, const Run& run, States<B> state, Input<B, 1>,
                      Output<B, output_dim> y, Saved<B>& saved) {
    static const std::vector<Token> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8};
    LM::template hidden<B>(backend, p, run, state, std::span(tokens).first(static_cast<std::size_t>(run.rows())), y,
                           saved);
  }
  template <class B>
  static void backward(B& backend, const Parameters<B>& p, Gradients<B, HiddenRows>& g, const Run& run,
                       States<B> dstate, const Saved<B>& saved, Input<B, output_dim> dy, Output<B, 1> dx) {
    LM::template hidden_backward<B>(backend, p, g, run, dstate, saved, dy);
    for (Index r = 0; r < dx.rows(); ++r) dx(r, 0) = 0;
  }
};

constexpr ModelConfig config{
    .vocab_size = 11, .embedding_dim = 8, .num_blocks = 2, .num_heads = 2, .ffn_round_up_to_multiple_of = 4};

}  // namespace

TEST_CASE("a model's gradients by its states, with documents and without") {
  for (const bool documents : {false, true}) {
    const auto differences = testing::check_gradients<HiddenRows<Network<config>>>(
        {.length = 6, .chunk_size = 4, .documents = documents, .step = 1e-5, .samples = 20});
    INFO("worst: " << differences.worst().name << " " << differences.worst().relative());
    CHECK(differences.worst().relative() <= 1e-6);
    CHECK(differences.tensors.size() == 1 + 2 * 3 + 2 * 15 + 3);  // x, C n m, a block's parameters, those around them
  }
}
