// SPDX-License-Identifier: Apache-2.0
// cpu::mlstm and cpu::mlstm_backward in every form and chunk size against the published numbers.
#include <string>
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

struct Tolerance {
  double h, state, gradient;
};

template <class Cell>
void check_published(const char* name, const Tolerance& tolerance) {
  const ReferenceData data(std::string("cell/") + name);
  const auto c = reference_case<float, Cell>(data);
  cpu::ThreadPool pool(1);
  Arena arena;
  const auto check = [&](Run run) {
    INFO(name << ", form " << static_cast<int>(run.form) << ", chunk " << run.chunk_size);
    cpu::MLSTMSaved<Cell> saved;
    const auto out =
        forward_of<float, Cell>(c, run, [&](const Run& r, const auto& in, StateSlots<float> state, auto h) {
          cpu::mlstm<Cell>(pool, arena, r, in, state, h, saved);
        });
    CHECK(relative_difference(out.h, data["h"]) < tolerance.h);
    CHECK(state_difference(out.state, reference_states<Cell>(data, "c", "n", "m")) < tolerance.state);

    run.training = true;
    std::vector<float> h(c.dh.size());
    const MatrixView<float, Cell::v_width> h_view(h.data(), run.rows());
    CellStates<float, Cell> first = c.first_state;
    const auto gradient = backward_of<float, Cell>(
        c, run, [&](const Run& r, const auto& in, auto, auto dh, const auto& to, StateSlots<float> dstate) {
          cpu::mlstm<Cell>(pool, arena, r, in, first.slots(), h_view, saved);
          cpu::mlstm_backward<Cell>(pool, arena, r, in, h_view, saved, dh, to, dstate);
        });
    CHECK(relative_difference(gradient.input.q, data["dq"]) < tolerance.gradient);
    CHECK(relative_difference(gradient.input.k, data["dk"]) < tolerance.gradient);
    CHECK(relative_difference(gradient.input.v, data["dv"]) < tolerance.gradient);
    CHECK(relative_difference(gradient.input.igate, data["di"]) < tolerance.gradient);
    CHECK(relative_difference(gradient.input.fgate, data["df"]) < tolerance.gradient);
    if (data.has("dc0"))
      CHECK(state_difference(gradient.state, reference_states<Cell>(data, "dc0", "dn0", "")) < tolerance.gradient);
  };
  for (const Index chunk : {0, 1, 16, 64, 100, 100000}) check(c.run(chunk));
  check(c.run(0, Form::recurrent));
  check(c.run(0, Form::parallel));
}

}  // namespace

TEST_CASE("cpu mLSTM gives the published numbers and gradients in every form and chunk size") {
  check_published<MLSTMCell<3, 8, 16, Uncapped>>("plain", {1e-5, 1e-5, 2e-5});
  check_published<MLSTMCell<2, 16, 24, Uncapped>>("state_in_and_out", {1e-5, 1e-5, 2e-5});
  check_published<MLSTMCell<2, 8, 8>>("documents", {1e-5, 1e-5, 2e-5});
  check_published<MLSTMCell<2, 8, 8, Uncapped>>("forgetting", {1e-5, 1e-5, 2e-5});
  check_published<MLSTMCell<2, 16, 8, Uncapped>>("one_token", {1e-5, 1e-5, 2e-5});
  check_published<MLSTMCell<4, 32, 64>>("trained_like", {1e-5, 1e-5, 2e-5});
  check_published<MLSTMCell<2, 16, 16, Uncapped>>("large_values", {1e-4, 1e-5, 1e-4});
  check_published<MLSTMCell<2, 16, 16>>("gates_at_the_caps", {1e-3, 1e-5, 1e-4});
}
