// SPDX-License-Identifier: Apache-2.0
// cpu::mlstm and cpu::mlstm_backward on several threads: those that share a head, too. A file of its own for the thread
// sanitizer, which builds no other cell.
#include <vector>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/mlstm.hpp"
#include "xlstm/cpu/mlstm_backward.hpp"
#include "xlstm/cpu/thread_pool.hpp"

namespace {

using namespace xlstm;
using namespace xlstm::tests;
using Cell = MLSTMCell<3, 72, 200>;

CellOutput<float, Cell> forward(const CellCase<float, Cell>& c, const Run& run, int threads) {
  cpu::ThreadPool pool(threads);
  Arena arena;
  return forward_of<float, Cell>(c, run, [&](const Run& r, const auto& in, StateSlots<float> state, auto h) {
    cpu::MLSTMSaved<Cell> saved;
    cpu::mlstm<Cell>(pool, arena, r, in, state, h, saved);
  });
}

/// Every value of the gradient.
std::vector<float> backward(const CellCase<float, Cell>& c, Run run, int threads) {
  run.training = true;
  cpu::ThreadPool pool(threads);
  Arena arena;
  std::vector<float> h(c.dh.size());
  const MatrixView<float, Cell::v_width> h_view(h.data(), run.rows());
  CellStates<float, Cell> state = c.first_state;
  const auto g = backward_of<float, Cell>(
      c, run, [&](const Run& r, const auto& in, auto, auto dh, const auto& gradient, StateSlots<float> dstate) {
        cpu::MLSTMSaved<Cell> saved;
        cpu::mlstm<Cell>(pool, arena, r, in, state.slots(), h_view, saved);
        cpu::mlstm_backward<Cell>(pool, arena, r, in, h_view, saved, dh, gradient, dstate);
      });
  std::vector<float> all;
  for (const auto* x : {&g.input.q, &g.input.k, &g.input.v, &g.input.igate, &g.input.fgate, &g.state.values})
    all.insert(all.end(), x->begin(), x->end());
  return all;
}

CellCase<float, Cell> documents(Index length) {
  CaseOptions options;
  options.length = length;
  options.document_probability = 0.01;
  options.state_scale = options.dstate_scale = 1;
  return random_case<float, Cell>(options);
}

}  // namespace

TEST_CASE("cpu mLSTM gives the same bits on any number of threads") {
  const auto c = documents(300);
  for (const Form form : {Form::chunkwise, Form::recurrent}) {
    const auto one = forward(c, c.run(8, form), 1);
    for (const int threads : {2, 3, 4, 5, 13}) {
      const auto many = forward(c, c.run(8, form), threads);
      CHECK(many.h == one.h);
      CHECK(many.state.values == one.state.values);
    }
  }
}

TEST_CASE("cpu mLSTM backward gives the same bits on any number of threads") {
  const auto c = documents(150);
  for (const Index chunk : {8, 70}) {
    const auto one = backward(c, c.run(chunk), 1);
    for (const int threads : {2, 3, 4, 13}) CHECK(backward(c, c.run(chunk), threads) == one);
  }
}
