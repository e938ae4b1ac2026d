// SPDX-License-Identifier: Apache-2.0
// Every module: its gradients, into the first state and from the last ones too, against central differences in double
// (1e-6 of each tensor's largest value: the fourth-order differences' own error is near 1e-10, rounding of the loss
// sums adds up to 1e-8), and the CPU backend against the reference (2e-4: fp32 sums of up to a few hundred terms, and
// the cell's cancelling denominators).
#include <string>
#include <vector>

#include "catch.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/testing/gradient_check.hpp"

using namespace xlstm;
using testing::GradientCheckOptions;

namespace {

template <class M>
void check(GradientCheckOptions options = {}) {
  const auto numeric = testing::check_gradients<M>(options);
  INFO("against differences, worst: " << numeric.worst().name << " " << numeric.worst().relative());
  CHECK(numeric.worst().relative() <= 1e-6);
  const auto cpu = testing::compare_with_reference<M, cpu::Backend<float>>(options);
  INFO("CPU against reference, worst: " << cpu.worst().name << " " << cpu.worst().relative());
  CHECK(cpu.worst().relative() <= 2e-4);
}

/// Every form, odd lengths, one token, documents.
template <class M>
void check_sequences() {
  for (const Index length : {Index{1}, Index{7}}) {
    for (const Form form : {Form::chunkwise, Form::parallel, Form::recurrent}) {
      for (const bool documents : {false, true}) {
        GradientCheckOptions options;
        options.length = length;
        options.form = form;
        options.chunk_size = 3;
        options.documents = documents;
        options.samples = 40;
        INFO("length " << length << ", form " << static_cast<int>(form) << ", documents " << documents);
        check<M>(options);
      }
    }
  }
}

/// The gradient takes m as a constant, which h does not depend on, ε apart; without ε the differences see the same.
struct WithoutEpsilon : MLSTMLayerPolicy {
  static constexpr double eps = 0;
};
struct SigmoidGated : MLSTMLayerPolicy {
  using InputGate = SigmoidInputGate;
};
struct Bare : MLSTMLayerPolicy {
  using Normalizer = NoNormalizer;
  using GateCap = NoSoftCap;
  using InputGate = SigmoidInputGate;
};
struct TightCap : MLSTMLayerPolicy {
  using GateCap = SoftCap<0.5>;
  static constexpr bool use_bias = true;
};

constexpr ModelConfig small{.vocab_size = 11,
                            .embedding_dim = 12,
                            .num_blocks = 2,
                            .num_heads = 3,
                            .use_bias = true,
                            .ffn_round_up_to_multiple_of = 4};

}  // namespace

TEST_CASE("Linear") {
  check<Linear<5, 3>>();
  check<Linear<7, 9, true>>();
  check<Linear<1, 1, true>>();
}

TEST_CASE("RMSNorm") {
  check<RMSNorm<6>>();
  check<RMSNorm<19, true, 1e-3>>();
}

TEST_CASE("MultiHeadNorm") {
  check<MultiHeadNorm<1, 8>>();
  check<MultiHeadNorm<3, 5, true>>();
}

TEST_CASE("SwiGLU") {
  check<SwiGLU<4, 10>>();
  check<SwiGLU<6, 7, true>>();
}

TEST_CASE("Identity, Residual and Sequential") {
  check<Identity<4>>();
  check<Residual<RMSNorm<6>, SwiGLU<6, 8>>>();
  check<Sequential<Linear<4, 6>, RMSNorm<6>, Linear<6, 3, true>>>();
}

TEST_CASE("MLSTMLayer in every form, with documents") {
  check_sequences<MLSTMLayer<6, Heads<2, 3, 4>, WithoutEpsilon>>();
}

TEST_CASE("MLSTMLayer's variants: sigmoid gate, no normalizer, no cap, tight cap with biases, one head") {
  check<MLSTMLayer<6, Heads<2, 3, 4>, SigmoidGated>>();
  check<MLSTMLayer<6, Heads<2, 2, 3>, Bare>>();
  check<MLSTMLayer<5, Heads<1, 3, 5>, TightCap>>();
}

TEST_CASE("Residual, Sequential and Repeat hand on states and their gradients") {
  using Layer = MLSTMLayer<6, Heads<2, 2, 3>, WithoutEpsilon>;
  const auto worst = []<class M>(std::type_identity<M>, bool documents) {
    // Norms of norms make a curved function: short steps.
    return testing::check_gradients<M>({.documents = documents, .step = 1e-5, .samples = 8}).worst().relative();
  };
  for (const bool documents : {false, true}) {
    CHECK(worst(std::type_identity<Residual<Layer, Layer>>{}, documents) <= 1e-6);
    using Named = xlstm::Named<"last", Residual<RMSNorm<6>, Layer>>;
    CHECK(worst(std::type_identity<Sequential<RMSNorm<6>, Layer, Linear<6, 6>, Named>>{}, documents) <= 1e-6);
    using Recomputing = Repeat<3, Sequential<RMSNorm<6>, Layer>, Recompute::per_block>;
    CHECK(worst(std::type_identity<Recomputing>{}, documents) <= 1e-6);
  }
}

TEST_CASE("Repeat, and recomputation to the bit") {
  using Block = ConfiguredBlock<small>;
  check<Repeat<2, Block>>({.length = 4, .documents = true, .samples = 20});

  const auto gradients = []<class M>(std::type_identity<M>) {
    testing::detail::Case<M, cpu::Backend<float>> c({.sequences = 2, .length = 9, .documents = true});
    cpu::Backend<float> backend;
    c.backward(backend);
    std::vector<float> all(c.dx);
    all.insert(all.end(), c.dstate.values.begin(), c.dstate.values.end());
    for_each_parameter<M>(c.gradients.parameters, [&](std::string_view, auto& handle, Initialization) {
      all.insert(all.end(), handle.data(), handle.data() + handle.count);
    });
    return all;
  };
  const auto kept = gradients(std::type_identity<Repeat<3, Block>>{});
  const auto recomputed = gradients(std::type_identity<Repeat<3, Block, Recompute::per_block>>{});
  CHECK(kept == recomputed);
}

TEST_CASE("Repeat without states begins with zeros, recomputing or not") {
  using Block = ConfiguredBlock<small>;
  const auto gradients = []<class M>(std::type_identity<M>, bool with_states) {
    using B = cpu::Backend<float>;
    testing::detail::Case<M, B> c({.sequences = 2, .length = 9});
    B backend;
    std::vector<std::vector<float>> zeros(2, std::vector<float>(static_cast<std::size_t>(M::state_size)));
    float* slots[] = {zeros[0].data(), zeros[1].data()};
    typename M::template Saved<B> saved;
    M::template forward<B>(backend, c.weights.parameters, c.run, {with_states ? slots : nullptr, 0},
                           {c.x.data(), c.run.rows(), M::input_dim}, {c.y.data(), c.run.rows(), M::output_dim}, saved);
    M::template backward<B>(backend, c.weights.parameters, c.gradients.parameters, c.run, {}, saved,
                            {c.dy.data(), c.run.rows(), M::output_dim}, {c.dx.data(), c.run.rows(), M::input_dim});
    return c.dx;
  };
  const std::type_identity<Repeat<2, Block>> keeping;
  const std::type_identity<Repeat<2, Block, Recompute::per_block>> recomputing;
  const auto expected = gradients(keeping, true);
  CHECK(gradients(keeping, false) == expected);
  CHECK(gradients(recomputing, true) == expected);
  CHECK(gradients(recomputing, false) == expected);
}

namespace {

template <class M>
std::vector<std::string> names_of() {
  typename M::template Parameters<cpu::Backend<float>> parameters;
  std::vector<std::string> names;
  for_each_parameter<M>(parameters, [&](std::string_view name, auto&, Initialization) { names.emplace_back(name); });
  return names;
}

template <class M>
std::vector<std::string> states_of() {
  std::vector<std::string> names;
  for_each_state<M>([&](const std::string& name, Index, Index, Index) { names.push_back(name); });
  return names;
}

}  // namespace

TEST_CASE("names: children are numbered unless they are named") {
  using M = Sequential<Linear<4, 4>, Residual<RMSNorm<4>, Linear<4, 4, true>>, Named<"last", Linear<4, 2>>>;
  CHECK(names_of<M>() == std::vector<std::string>{"0.weight", "1.0.weight", "1.1.weight", "1.1.bias", "last.weight"});
}

TEST_CASE("names: no two parameters have the same, whatever is composed") {
  using Names = std::vector<std::string>;
  using A = Named<"a", Linear<4, 4>>;
  using B = Named<"b", Linear<4, 4>>;
  CHECK(names_of<Repeat<2, A>>() == Names{"0.a.weight", "1.a.weight"});
  CHECK(names_of<Sequential<Repeat<2, A>, Repeat<2, A>>>() ==
        Names{"0.0.a.weight", "0.1.a.weight", "1.0.a.weight", "1.1.a.weight"});
  CHECK(names_of<Sequential<Repeat<2, A>, Linear<4, 4>>>() == Names{"0.0.a.weight", "0.1.a.weight", "1.weight"});
  CHECK(names_of<Sequential<A, A, B>>() == Names{"0.a.weight", "1.a.weight", "2.b.weight"});
  CHECK(names_of<Residual<A, A>>() == Names{"0.a.weight", "1.a.weight"});
  // Made of named parts, and named like them, unless they come twice.
  CHECK(names_of<Sequential<Sequential<A, B>, Named<"c", RMSNorm<4>>>>() == Names{"a.weight", "b.weight", "c.weight"});
  CHECK(names_of<Sequential<Sequential<A, B>, B>>() == Names{"0.a.weight", "0.b.weight", "1.b.weight"});
  CHECK(names_of<Sequential<Sequential<A, A>, B>>() == Names{"0.0.a.weight", "0.1.a.weight", "b.weight"});
  using Layer = Named<"layer", MLSTMLayer<4, Heads<1, 2, 4>>>;
  CHECK(states_of<Sequential<Layer, Layer>>() ==
        Names{"0.layer.C", "0.layer.n", "0.layer.m", "1.layer.C", "1.layer.n", "1.layer.m"});
}
