// SPDX-License-Identifier: Apache-2.0
// Backends are policies: a user derives from one and replaces a single operation.
#include "xlstm/cpu/backend.hpp"

#include <type_traits>

#include "catch.hpp"
#include "xlstm/model/model.hpp"
#include "xlstm/reference/backend.hpp"
#include "xlstm/testing/gradient_check.hpp"

using namespace xlstm;

namespace {

/// Counts the norms that pass through it.
template <class Base>
struct Counting : Base {
  using Base::Base;
  template <Index D, Index N, class T>
  void rms_norm(MatrixView<const T, D> x, const VectorParameter<T, D>& weight, const VectorParameter<T, N>& bias,
                double eps, MatrixView<T, D> y, T* scale) {
    ++norms;
    Base::rms_norm(x, weight, bias, eps, y, scale);
  }
  int norms = 0;
};

/// A wrong SwiGLU, to be found out.
struct Wrong : cpu::Backend<float> {
  template <Index F>
  void swiglu(MatrixView<float, F> gate, MatrixView<float, F> up, MatrixView<float, F> y) {
    cpu::Backend<float>::swiglu(up, gate, y);
  }
};

constexpr ModelConfig config{.vocab_size = 17, .embedding_dim = 32, .num_blocks = 3, .num_heads = 2};

template <class B>
int norms_of_one_pass() {
  using M = LanguageModel<config, B>;
  const M model = M::initialized(1);
  std::vector<typename M::State> state(static_cast<std::size_t>(M::state_size));
  auto* slot = state.data();
  const std::vector<Token> tokens{1, 2, 3};
  const auto lease = model.lease();
  model.run(*lease, Run{.sequences = 1, .length = 3}, tokens, {&slot, 0}, M::Rows::last, [](Index, auto) {});
  return lease->norms;
}

}  // namespace

TEST_CASE("modules call the operation of the most derived backend") {
  CHECK(norms_of_one_pass<Counting<cpu::Backend<bf16>>>() == 2 * 3 + 1);
  CHECK(norms_of_one_pass<Counting<reference::Backend<float>>>() == 2 * 3 + 1);
}

TEST_CASE("a wrong operation is found by comparison with the reference") {
  CHECK(testing::compare_with_reference<SwiGLU<6, 9>, Wrong>().worst().relative() > 0.1);
}

TEST_CASE("weights in bf16 and f16 give what the reference gives with the same rounded weights") {
  // The tolerance of the fp32 cell (tests/nn/modules.cpp): storage adds nothing, since both read the same weights.
  using M = MLSTMLayer<20, Heads<2, 5, 10>>;
  CHECK(testing::compare_with_reference<M, cpu::Backend<bf16>>().worst().relative() <= 2e-4);
  CHECK(testing::compare_with_reference<M, cpu::Backend<f16>>().worst().relative() <= 2e-4);
}

TEST_CASE("high precision is within fp32's tolerance of the reference, and another one only where there is AMX") {
  const testing::GradientCheckOptions options{.length = 70};
  const auto error = [&]<class M, class B>() {
    return testing::compare_with_reference<M, B>(options).worst().relative();
  };
  using High = cpu::Backend<float, cpu::FloatActivations, cpu::HighPrecision>;
  STATIC_REQUIRE(std::is_same_v<High::GradientBackend, High>);  // so a trainer keeps no second copy of the weights
  using Layer = MLSTMLayer<64, Heads<2, 16, 32>>;
  using FeedForward = SwiGLU<64, 96>;
  const double layer = error.operator()<Layer, High>(), feed_forward = error.operator()<FeedForward, High>();
  CHECK(layer <= 2e-4);
  CHECK(feed_forward <= 2e-4);
  const bool same = layer == error.operator()<Layer, cpu::Backend<float>>() &&
                    feed_forward == error.operator()<FeedForward, cpu::Backend<float>>();
#if defined(XLSTM_SIMD_AMX)
  CHECK(same == !cpu::amx::permitted());
#else
  CHECK(same);
#endif
}
