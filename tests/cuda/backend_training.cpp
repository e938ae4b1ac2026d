// SPDX-License-Identifier: Apache-2.0
// What training asks of the backend of devices, beside the reference in double.
#include <cmath>
#include <vector>

#include "catch.hpp"
#include "device_values.hpp"
#include "xlstm/reference/backend.hpp"

using namespace device_values;
using xlstm::DenseWeight;
using xlstm::MatrixView;
using xlstm::Token;
using xlstm::VectorParameter;

namespace {

/// A parameter in double over a copy of values.
template <class Parameter>
struct Wide {
  explicit Wide(std::vector<double> start) : values(std::move(start)) { parameter.bind(values.data()); }
  std::vector<double> values;
  Parameter parameter;
};

/// dy in Y: T, or fp32 where it is the gates'.
template <class T, class Y>
void check_linear(double allowed) {
  constexpr Index in = 24, out = 10, rows = 7;
  Device<T> device;
  const Values<T> x(device, rows * in, 1), w(device, out * in, 2), dx(device, rows * in, 3);
  const Values<Y> dy(device, rows * out, 4);
  const Values<float> dw(device, out * in, 5), db(device, out, 6);
  DenseWeight<T, out, in> weight;
  weight.bind(w.data);
  DenseWeight<float, out, in> dweight;
  dweight.bind(dw.data);
  VectorParameter<float, out> dbias;
  dbias.bind(db.data);
  xlstm::reference::Backend<double> reference;
  Wide<DenseWeight<double, out, in>> wide_weight(w.wide), wide_dweight(dw.wide);
  Wide<VectorParameter<double, out>> wide_dbias(db.wide);
  std::vector<double> wide_dx = dx.wide;
  const MatrixView<const Y, out> from(dy.data, rows);
  const MatrixView<const double, out> wide_from(dy.wide.data(), rows);

  for (const bool add : {false, true}) {
    device.linear_backward_input(from, weight, MatrixView<T, in>(dx.data, rows), add);
    reference.linear_backward_input(wide_from, wide_weight.parameter, MatrixView<double, in>(wide_dx.data(), rows),
                                    add);
    check_close(downloaded(device, dx.data, rows * in), wide_dx, allowed, allowed * 10 + 1e-5);
  }
  device.linear_backward_weight(MatrixView<const T, in>(x.data, rows), from, dweight, dbias);
  reference.linear_backward_weight(MatrixView<const double, in>(x.wide.data(), rows), wide_from, wide_dweight.parameter,
                                   wide_dbias.parameter);
  const double rounded = std::is_same_v<T, Y> ? 0 : allowed * 10;
  check_close(downloaded(device, dw.data, out * in), wide_dweight.values, 0, rounded + 1e-5);
  check_close(downloaded(device, db.data, out), wide_dbias.values, 0, 1e-5);
}

TEST_CASE("gradients of linear layers, in fp32 for the parameters", "[cuda]") {
  check_linear<float, float>(0);
  check_linear<bf16, bf16>(0x1p-8);
  check_linear<bf16, float>(0x1p-8);
  check_linear<f16, float>(0x1p-11);
}

template <class T>
void check_norms() {
  constexpr Index heads = 2, d = 24, rows = 5;
  const double allowed = rounding<T> + 1e-5;
  Device<T> device;
  const Values<T> x(device, rows * d, 1), dy(device, rows * d, 2);
  const Values<float> w(device, d, 3), dw(device, d, 4), db(device, d, 5);
  const auto y = device.arena().template matrix<T, d>(rows);
  float* const mean = device.arena().template allocate<float>(rows * heads);
  float* const scale = device.arena().template allocate<float>(rows * heads);
  VectorParameter<float, d> weight, dweight, dbias;
  weight.bind(w.data);
  dweight.bind(dw.data);
  dbias.bind(db.data);
  xlstm::reference::Backend<double> reference;
  Wide<VectorParameter<double, d>> wide_weight(w.wide), wide_dweight(dw.wide), wide_dbias(db.wide);
  std::vector<double> wide_y(at(rows * d)), means(at(rows * heads)), scales(at(rows * heads));
  const MatrixView<const T, d> from(x.data, rows), gradient(dy.data, rows);
  const MatrixView<const double, d> wide_from(x.wide.data(), rows), wide_gradient(dy.wide.data(), rows);
  const MatrixView<double, d> to(wide_y.data(), rows);

  device.template rms_norm<d, 0>(from, weight, {}, 1e-6, y, scale);
  device.rms_norm_backward(from, weight, scale, gradient, y, dweight, dbias);
  reference.rms_norm<d, 0>(wide_from, wide_weight.parameter, {}, 1e-6, to, scales.data());
  reference.rms_norm_backward(wide_from, wide_weight.parameter, scales.data(), wide_gradient, to,
                              wide_dweight.parameter, wide_dbias.parameter);
  check_close(downloaded(device, y.data(), rows * d), wide_y, allowed, 1e-5);

  device.template multihead_norm<heads, d, 0>(from, weight, {}, 1e-6, y, mean, scale);
  device.template multihead_norm_backward<heads>(from, weight, mean, scale, gradient, y, dweight, dbias);
  reference.multihead_norm<heads, d, 0>(wide_from, wide_weight.parameter, {}, 1e-6, to, means.data(), scales.data());
  reference.multihead_norm_backward<heads>(wide_from, wide_weight.parameter, means.data(), scales.data(), wide_gradient,
                                           to, wide_dweight.parameter, wide_dbias.parameter);
  check_close(downloaded(device, y.data(), rows * d), wide_y, allowed, 1e-5);
  check_close(downloaded(device, dw.data, d), wide_dweight.values, 0, 2e-5);
  check_close(downloaded(device, db.data, d), wide_dbias.values, 0, 2e-5);

  const Values<T> gate(device, rows * d, 6);
  std::vector<double> wide_gate = gate.wide, wide_dy = dy.wide, wide_dgate(at(rows * d));
  const auto dgate = device.arena().template matrix<T, d>(rows);
  device.template gated_multihead_norm_backward<heads>(MatrixView<T, d>(gate.data, rows), from, weight, weight, mean,
                                                       scale, MatrixView<T, d>(dy.data, rows), dgate, y, dweight,
                                                       dbias);
  reference.gated_multihead_norm_backward<heads>(
      MatrixView<double, d>(wide_gate.data(), rows), wide_from, wide_weight.parameter, wide_weight.parameter,
      means.data(), scales.data(), MatrixView<double, d>(wide_dy.data(), rows),
      MatrixView<double, d>(wide_dgate.data(), rows), to, wide_dweight.parameter, wide_dbias.parameter);
  check_close(downloaded(device, y.data(), rows * d), wide_y, allowed, 1e-5);
  check_close(downloaded(device, dgate.data(), rows * d), wide_dgate, allowed, 1e-5);
  check_close(downloaded(device, dw.data, d), wide_dweight.values, 0, 3e-5);
  check_close(downloaded(device, db.data, d), wide_dbias.values, 0, 3e-5);
}

TEST_CASE("gradients of norms", "[cuda]") {
  check_norms<float>();
  check_norms<bf16>();
}

template <class T>
void check_elementwise() {
  constexpr Index d = 20, rows = 3;
  Device<T> device;
  const Values<T> a(device, rows * d, 1), b(device, rows * d, 2), dy(device, rows * d, 3);
  std::vector<double> wide_a = a.wide, wide_b = b.wide, wide_dy = dy.wide, first(a.wide.size());
  const auto out = device.arena().template matrix<T, d>(rows);
  const MatrixView<T, d> x(a.data, rows), y(b.data, rows), gradient(dy.data, rows);
  const MatrixView<double, d> wide_x(wide_a.data(), rows), wide_y(wide_b.data(), rows),
      wide_gradient(wide_dy.data(), rows), wide_out(first.data(), rows);
  xlstm::reference::Backend<double> reference;
  device.swiglu_backward(x, y, gradient, out, gradient);
  reference.swiglu_backward(wide_x, wide_y, wide_gradient, wide_out, wide_gradient);
  check_close(downloaded(device, out.data(), rows * d), first, rounding<T> + 1e-5, 1e-6);
  check_close(downloaded(device, dy.data, rows * d), wide_dy, rounding<T> + 1e-5, 1e-6);
}

TEST_CASE("gradients element by element, in place", "[cuda]") {
  check_elementwise<float>();
  check_elementwise<f16>();
}

TEST_CASE("the embedding's rows, and their gradient", "[cuda]") {
  constexpr Index d = 12, vocabulary = 9;
  Device<bf16> device;
  const Values<bf16> w(device, vocabulary * d, 1), dy(device, 5 * d, 2);
  const Values<float> dw(device, vocabulary * d, 3);
  const std::vector<Token> tokens{8, 0, 3, 8, 8};
  DenseWeight<bf16, vocabulary, d> weight;
  weight.bind(w.data);
  DenseWeight<float, vocabulary, d> dweight;
  dweight.bind(dw.data);
  const auto y = device.arena().matrix<bf16, d>(5);
  device.embed(tokens, weight, y);
  device.embed_backward(tokens, MatrixView<const bf16, d>(dy.data, 5), dweight);
  std::vector<double> rows;
  std::vector<double> gradient = dw.wide;
  for (std::size_t r = 0; r < 5; ++r) {
    for (Index c = 0; c < d; ++c) {
      rows.push_back(w.wide[at(tokens[r] * d + c)]);
      gradient[at(tokens[r] * d + c)] += dy.wide[r * d + at(c)];
    }
  }
  check_close(downloaded(device, y.data(), 5 * d), rows, 0, 0);
  check_close(downloaded(device, dw.data, vocabulary * d), gradient, 0, 1e-5);
}

/// Forward and backward of the cell in one form, from a state and with a gradient of the last one.
template <class T, class DeviceOfT = Device<T>>
void check_cell(xlstm::Form form, double allowed) {
  using Cell = xlstm::MLSTMCell<2, 8, 16>;
  constexpr Index sequences = 2, length = 11, rows = sequences * length;
  DeviceOfT device;
  const Values<T> q(device, rows * Cell::qk_width, 1), k(device, rows * Cell::qk_width, 2),
      v(device, rows * Cell::v_width, 3), dh(device, rows * Cell::v_width, 4);
  const Values<float> igate(device, rows * Cell::heads, 5, -1), fgate(device, rows * Cell::heads, 6, 3),
      state(device, sequences * Cell::state_size, 7), dstate(device, sequences * Cell::state_size, 8);
  std::vector<std::uint8_t> starts(at(rows), 0);
  starts[4] = starts[at(length + 9)] = 1;
  const xlstm::Run run{.sequences = sequences,
                       .length = length,
                       .starts = starts.data(),
                       .form = form,
                       .chunk_size = 4,
                       .training = true};
  const auto slots_of = [&](auto* first) {
    std::vector<std::remove_const_t<decltype(first)>> slots;
    for (Index b = 0; b < sequences; ++b) slots.push_back(first + b * Cell::state_size);
    return slots;
  };

  auto state_slots = slots_of(state.data), dstate_slots = slots_of(dstate.data);
  const xlstm::Run there = device.upload(run);
  const auto states = device.upload(xlstm::StateSlots<float>{state_slots.data(), 0}, sequences);
  const auto dstates = device.upload(xlstm::StateSlots<float>{dstate_slots.data(), 0}, sequences);
  const xlstm::MLSTMInput<const T, Cell, const float> in{
      {q.data, rows}, {k.data, rows}, {v.data, rows}, {igate.data, rows}, {fgate.data, rows}};
  const auto matrix = [&]<class U, Index D>() { return device.arena().template matrix<U, D>(rows); };
  const auto h = matrix.template operator()<T, Cell::v_width>();
  const xlstm::MLSTMInput<T, Cell, float> gradient{
      matrix.template operator()<T, Cell::qk_width>(), matrix.template operator()<T, Cell::qk_width>(),
      matrix.template operator()<T, Cell::v_width>(), matrix.template operator()<float, Cell::heads>(),
      matrix.template operator()<float, Cell::heads>()};
  typename DeviceOfT::template MLSTMSaved<Cell> saved{};
  device.template mlstm<Cell>(there, in, states, h, saved);
  device.template mlstm_backward<Cell>(there, in, h, saved, MatrixView<T, Cell::v_width>(dh.data, rows), gradient,
                                       dstates);

  xlstm::reference::Backend<double> reference;
  std::vector<double> wide_state = state.wide, wide_dstate = dstate.wide, wide_h(v.wide.size()), wide_dh = dh.wide,
                      dq(q.wide.size()), dk = dq, dv = wide_h, di(igate.wide.size()), df = di;
  auto wide_slots = slots_of(wide_state.data()), wide_dslots = slots_of(wide_dstate.data());
  const xlstm::MLSTMInput<const double, Cell> wide_in{{q.wide.data(), rows},
                                                      {k.wide.data(), rows},
                                                      {v.wide.data(), rows},
                                                      {igate.wide.data(), rows},
                                                      {fgate.wide.data(), rows}};
  const MatrixView<double, Cell::v_width> h_view(wide_h.data(), rows), dh_view(wide_dh.data(), rows);
  typename xlstm::reference::Backend<double>::MLSTMSaved<Cell> wide_saved{};
  reference.mlstm<Cell>(run, wide_in, {wide_slots.data(), 0}, h_view, wide_saved);
  reference.mlstm_backward<Cell>(
      run, wide_in, h_view, wide_saved, dh_view,
      {{dq.data(), rows}, {dk.data(), rows}, {dv.data(), rows}, {di.data(), rows}, {df.data(), rows}},
      {wide_dslots.data(), 0});

  const auto check = [&](const auto* found, const std::vector<double>& expected) {
    double largest = 0;
    for (const double x : expected) largest = std::max(largest, std::abs(x));
    check_close(downloaded(device, found, static_cast<Index>(expected.size())), expected, 0, allowed * largest);
  };
  check(gradient.q.data(), dq);
  check(gradient.k.data(), dk);
  check(gradient.v.data(), dv);
  check(gradient.igate.data(), di);
  check(gradient.fgate.data(), df);
  check(dstate.data, wide_dstate);
  check(state.data, wide_state);
}

TEST_CASE("gradients of the cell, whatever its form", "[cuda]") {
  for (const auto form : {xlstm::Form::chunkwise, xlstm::Form::recurrent, xlstm::Form::parallel}) {
    check_cell<float>(form, 2e-5);
    check_cell<bf16>(form, 0x1p-6);
  }
}

struct KeepStates : xlstm::cuda::MLSTMChunkwiseTuning {
  static constexpr bool keep_states = true;
};

TEST_CASE("gradients of the cell whose chunks' states are kept", "[cuda]") {
  check_cell<float, xlstm::cuda::Backend<float, xlstm::tests::DeviceRuntime, KeepStates>>(xlstm::Form::chunkwise, 2e-5);
}

TEST_CASE("loss and optimizer", "[cuda]") {
  constexpr Index vocabulary = 50;
  Device<bf16> device;
  const Values<float> z(device, 4 * vocabulary, 1, 0, 4), parameter(device, 30, 2), gradient(device, 30, 3),
      m(device, 30, 4), v(device, 30, 5, 3, 0.1);
  const std::vector<Token> targets{3, xlstm::ignored_target, 49, 0};
  xlstm::reference::Backend<double> reference;
  std::vector<double> wide_z = z.wide, p = parameter.wide, first = m.wide, second = v.wide, g = gradient.wide;
  using Cap = xlstm::SoftCap<30.0>;
  const auto found = device.cross_entropy<Cap>(MatrixView<float, vocabulary>(z.data, 4), targets, 1e-4, 0.5);
  const auto wanted =
      reference.cross_entropy<Cap>(MatrixView<double, vocabulary>(wide_z.data(), 4), targets, 1e-4, 0.5);
  CHECK(found.targets == 3);
  CHECK_THAT(found.nll, WithinRel(wanted.nll, 1e-5));
  CHECK_THAT(found.z_loss, WithinRel(wanted.z_loss, 1e-5));
  check_close(downloaded(device, z.data, 4 * vocabulary), wide_z, 1e-4, 1e-6);

  CHECK_THAT(device.squared_norm(gradient.data, 30), WithinRel(reference.squared_norm(gradient.wide.data(), 30), 1e-6));
  const xlstm::AdamWStep step{.learning_rate = 0.01, .weight_decay = 0.1, .step = 3};
  device.adamw(parameter.data, gradient.data, m.data, v.data, 30, step);
  reference.adamw(p.data(), g.data(), first.data(), second.data(), 30, step);
  check_close(downloaded(device, parameter.data, 30), p, 1e-5, 1e-6);
  check_close(downloaded(device, gradient.data, 30), g, 0, 0);  // used up: zeros
  check_close(downloaded(device, m.data, 30), first, 1e-5, 1e-6);
  check_close(downloaded(device, v.data, 30), second, 1e-5, 1e-6);
}

}  // namespace
