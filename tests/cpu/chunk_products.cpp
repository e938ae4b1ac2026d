// SPDX-License-Identifier: Apache-2.0
// The chunkwise mLSTM, forward and backward, with the products of every policy that this machine can run, whatever the
// tuning would choose for a cell, against plain loops in double; and a cell with large heads through the tuning's
// choice.
#include "xlstm/cpu/chunk_products.hpp"

#include <vector>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/mlstm.hpp"
#include "xlstm/cpu/mlstm_backward.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/reference/mlstm_backward.hpp"
#include "xlstm/reference/mlstm_recurrent.hpp"

namespace {

using namespace xlstm;
using namespace xlstm::tests;

template <class F>
void for_each_kind(F&& f) {
  f(cpu::VectorProducts{}, "vectors");
#if defined(XLSTM_SIMD_AMX)
  if (cpu::amx::permitted()) {
    f(cpu::AmxProducts<cpu::HighestPrecision>{}, "AMX");
    f(cpu::AmxProducts<cpu::HighPrecision>{}, "AMX, high precision");
  }
#endif
}

/// Relative to the largest value of each result. What high precision leaves out is 2^-18 of a product: some sixteen
/// times fp32's rounding, which the gradients' tolerance has room for.
struct Tolerance {
  double h = 2e-5, state = 1e-5, gradient = 2e-4;
};
template <class Products>
constexpr Tolerance tolerance;
#if defined(XLSTM_SIMD_AMX)
template <>
constexpr Tolerance tolerance<cpu::AmxProducts<cpu::HighPrecision>>{8e-5, 4e-5, 2e-4};
#endif

/// Forward in chunks of `chunk`, and backward, as the operations of the backend do them.
template <class Cell, class Products>
struct Pass {
  CellOutput<float, Cell> out;
  CellGradient<float, Cell> gradient;

  Pass(const CellCase<float, Cell>& c, Index chunk, int threads)
      : out{{}, c.first_state}, gradient{CellArrays<float, Cell>(c.run().rows()), c.dstate} {
    cpu::ThreadPool pool(threads);
    Arena arena;
    const Run run = c.run(chunk);
    const auto saved = cpu::allocate_saved<Cell>(arena, run, chunk);
    out = forward_of<float, Cell>(c, run, [&](const Run& r, const auto& in, StateSlots<float> state, auto h) {
      cpu::chunkwise::forward<Cell, Products>(pool, arena, r, chunk, in, state, h, &saved);
    });
    const MatrixView<const float, Cell::v_width> h(out.h.data(), run.rows());
    gradient = backward_of<float, Cell>(
        c, run, [&](const Run& r, const auto& in, auto, auto dh, const auto& to, StateSlots<float> dstate) {
          cpu::backward::all_heads<Cell, Products>(pool, arena, r, in, h, saved, dh, to, dstate);
        });
  }

  std::vector<float> all() const {
    std::vector<float> values = out.h;
    const auto& g = gradient.input;
    for (const auto* x : {&out.state.values, &g.q, &g.k, &g.v, &g.igate, &g.fgate, &gradient.state.values})
      values.insert(values.end(), x->begin(), x->end());
    return values;
  }
};

}  // namespace

// Around a tile's 32 rows and columns, in heads, chunks and documents.
TEMPLATE_TEST_CASE("cpu mLSTM by each kind of products equals plain loops in double", "",
                   (MLSTMCell<2, 40, 72, Uncapped>), (MLSTMCell<1, 17, 33, SigmoidGateUnnormalized>)) {
  using Cell = TestType;
  CaseOptions options;
  std::uint64_t seed = 0;
  for (const Index length : {2, 33, 131}) {
    for (const double documents : {0.0, 0.04}) {
      for (const double state : {0.0, 1.0}) {
        options.sequences = 2;
        options.length = length;
        options.document_probability = documents;
        options.state_scale = options.dstate_scale = state;
        options.seed = ++seed * 1000;
        const double distance = 0.01 / static_cast<double>(length * options.sequences);
        const auto c = random_case_off_kink<float, Cell>(options, distance);
        const auto exact = random_case_off_kink<double, Cell>(options, distance);
        const auto expected = forward_of<double, Cell>(
            exact, exact.run(), [](auto... a) { reference::mlstm_recurrent<Cell, double>(a...); });
        const auto gradient = backward_of<double, Cell>(
            exact, exact.run(), [](auto... a) { reference::mlstm_backward<Cell, double>(a...); });
        for (const Index chunk : {5, 32, 50, 200}) {
          for_each_kind([&](auto products, const char* kind) {
            INFO(kind << ", length " << length << ", documents " << documents << ", state " << state << ", chunk "
                      << chunk);
            const Pass<Cell, decltype(products)> one(c, chunk, 1);
            constexpr Tolerance allowed = tolerance<decltype(products)>;
            CHECK(relative_difference(one.out.h, expected.h) < allowed.h);
            CHECK(state_difference(one.out.state, expected.state) < allowed.state);
            CHECK(gradient_difference(one.gradient, gradient) < allowed.gradient);
            CHECK(Pass<Cell, decltype(products)>(c, chunk, 3).all() == one.all());
          });
        }
      }
    }
  }
}

// Q·V is as large as the tuning asks for where the machine has AMX, and neither is a multiple of a tile's side.
TEST_CASE("cpu mLSTM with large heads equals plain loops in double, on any number of threads") {
  using Cell = MLSTMCell<2, 258, 516>;
  CaseOptions options;
  options.length = 150;
  options.document_probability = 0.01;
  options.state_scale = options.dstate_scale = 1;
  const auto c = random_case_off_kink<float, Cell>(options, 1e-4);
  const auto exact = random_case_off_kink<double, Cell>(options, 1e-4);
  const auto expected =
      forward_of<double, Cell>(exact, exact.run(), [](auto... a) { reference::mlstm_recurrent<Cell, double>(a...); });
  const auto expected_gradient =
      backward_of<double, Cell>(exact, exact.run(), [](auto... a) { reference::mlstm_backward<Cell, double>(a...); });
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 5}) {
    cpu::ThreadPool pool(threads);
    Arena arena;
    Run run = c.run();
    run.training = true;
    cpu::MLSTMSaved<Cell> saved;
    const auto out = forward_of<float, Cell>(c, run, [&](const Run& r, const auto& in, auto state, auto h) {
      cpu::mlstm<Cell>(pool, arena, r, in, state, h, saved);
    });
    const MatrixView<const float, Cell::v_width> h(out.h.data(), run.rows());
    const auto gradient = backward_of<float, Cell>(
        c, run, [&](const Run& r, const auto& in, auto, auto dh, const auto& to, StateSlots<float> dstate) {
          cpu::mlstm_backward<Cell>(pool, arena, r, in, h, saved, dh, to, dstate);
        });
    CHECK(relative_difference(out.h, expected.h) < 2e-5);
    CHECK(state_difference(out.state, expected.state) < 1e-5);
    CHECK(gradient_difference(gradient, expected_gradient) < 2e-4);
    std::vector<float> all = out.h;
    all.insert(all.end(), gradient.input.q.begin(), gradient.input.q.end());
    all.insert(all.end(), gradient.input.v.begin(), gradient.input.v.end());
    all.insert(all.end(), gradient.input.fgate.begin(), gradient.input.fgate.end());
    if (threads == 1) first = all;
    CHECK(all == first);
  }
}
