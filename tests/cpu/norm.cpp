// SPDX-License-Identifier: Apache-2.0
// The CPU's norms against the reference's in double, on odd sizes, strided rows, more than one task and column block;
// with the same bits on one thread and on three. 4e-6 of the largest value: fp32 sums of some hundred terms in vector
// lanes, or of 80 rows one after another. A large eps, as without one the gradient of one feature is nothing.
#include "xlstm/cpu/norm.hpp"

#include "catch.hpp"
#include "cpu/same_numbers.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;

namespace {

constexpr double tolerance = 4e-6;

template <Index D, bool Bias>
void check_rms_norm(Index rows, cpu::ThreadPool& threads) {
  INFO(rows << " rows of " << D << ", bias " << Bias);
  Random random(1);
  constexpr Index N = Bias ? D : 0;
  SameNumbers<D> x(rows, random), weight(1, random), bias(1, random), y(rows, random), dy(rows, random);
  SameNumbers<1> scale(rows, random, 1, 0);
  SameNumbers<D> dx(rows, random), dweight(1, random), dbias(1, random);  // the last two are added to
  auto y2 = y, dx2 = dx, dweight2 = dweight, dbias2 = dbias;
  Arena arena;
  const auto run = [&](auto& exec, auto& out, auto& dinput, auto& dw, auto& db) {
    cpu::rms_norm(exec, x.in(), weight.data(), Bias ? bias.data() : nullptr, 0.5, out.out(), scale.data());
    cpu::rms_norm_backward(exec, arena, x.in(), weight.data(), scale.data(), dy.in(), dinput.out(), dw.data(),
                           Bias ? db.data() : nullptr);
  };
  SerialExecutor serial;
  run(serial, y, dx, dweight, dbias);
  run(threads, y2, dx2, dweight2, dbias2);
  CHECK((y.same_bits(y2) && dx.same_bits(dx2) && dweight.same_bits(dweight2) && dbias.same_bits(dbias2)));

  reference::Backend<double> reference;
  auto dw = dweight.exact_parameter();
  auto db = dbias.template exact_parameter<N>();
  reference.rms_norm(x.exact_in(), weight.exact_parameter(), bias.template exact_parameter<N>(), 0.5, y.exact_out(),
                     scale.exact_data());
  reference.rms_norm_backward(x.exact_in(), weight.exact_parameter(), scale.exact_data(), dy.exact_in(), dx.exact_out(),
                              dw, db);
  for (const double error : {y.error(), scale.error(), dx.error(), dweight.error(), dbias.error()}) {
    CHECK(error <= tolerance);
  }
}

template <Index Heads, Index Dim, bool Bias>
void check_multihead_norm(Index rows, cpu::ThreadPool& threads) {
  INFO(rows << " rows of " << Heads << " heads of " << Dim << ", bias " << Bias);
  Random random(2);
  constexpr Index D = Heads * Dim, N = Bias ? D : 0;
  SameNumbers<D> x(rows, random), weight(1, random), bias(1, random), y(rows, random), dy(rows, random);
  SameNumbers<Heads> mean(rows, random, 1, 0), scale(rows, random, 1, 0);
  SameNumbers<D> dx(rows, random), dweight(1, random), dbias(1, random);
  auto y2 = y, dx2 = dx, dweight2 = dweight, dbias2 = dbias;
  Arena arena;
  const auto run = [&](auto& exec, auto& out, auto& dinput, auto& dw, auto& db) {
    cpu::multihead_norm<Heads>(exec, x.in(), weight.data(), Bias ? bias.data() : nullptr, 0.1, out.out(), mean.data(),
                               scale.data());
    cpu::multihead_norm_backward<Heads>(exec, arena, x.in(), weight.data(), mean.data(), scale.data(), dy.in(),
                                        dinput.out(), dw.data(), Bias ? db.data() : nullptr);
  };
  SerialExecutor serial;
  run(serial, y, dx, dweight, dbias);
  run(threads, y2, dx2, dweight2, dbias2);
  CHECK((y.same_bits(y2) && dx.same_bits(dx2) && dweight.same_bits(dweight2) && dbias.same_bits(dbias2)));

  reference::Backend<double> reference;
  auto dw = dweight.exact_parameter();
  auto db = dbias.template exact_parameter<N>();
  reference.multihead_norm<Heads>(x.exact_in(), weight.exact_parameter(), bias.template exact_parameter<N>(), 0.1,
                                  y.exact_out(), mean.exact_data(), scale.exact_data());
  reference.multihead_norm_backward<Heads>(x.exact_in(), weight.exact_parameter(), mean.exact_data(),
                                           scale.exact_data(), dy.exact_in(), dx.exact_out(), dw, db);
  for (const double error : {y.error(), mean.error(), scale.error(), dx.error(), dweight.error(), dbias.error()}) {
    CHECK(error <= tolerance);
  }
}

template <Index Heads, Index Dim, bool Bias>
void check_gated_multihead_norm(Index rows, cpu::ThreadPool& threads) {
  INFO(rows << " rows of " << Heads << " heads of " << Dim << ", bias " << Bias);
  Random random(3);
  constexpr Index D = Heads * Dim, N = Bias ? D : 0;
  SameNumbers<D> gate(rows, random, 8), x(rows, random), weight(1, random), bias(1, random);
  for (const double far : {-150.0, 150.0}) {
    const Index c = far < 0 ? 0 : D - 1;
    gate.out()(0, c) = static_cast<float>(far);
    gate.exact_out()(0, c) = far;
  }
  SameNumbers<Heads> mean(rows, random, 1, 0), scale(rows, random, 1, 0);
  SameNumbers<D> y(rows, random), dy(rows, random), dgate(rows, random), dx(rows, random);
  SameNumbers<D> dweight(1, random), dbias(1, random);
  auto y2 = y, dy2 = dy, dgate2 = dgate, dx2 = dx, dweight2 = dweight, dbias2 = dbias;
  const float* const biases = Bias ? bias.data() : nullptr;
  Arena arena;
  const auto run = [&](auto& exec, auto& out, auto& d, auto& dg, auto& dinput, auto& dw, auto& db) {
    cpu::gated_multihead_norm<Heads>(exec, gate.in(), x.in(), weight.data(), biases, 0.1, out.out(), mean.data(),
                                     scale.data());
    cpu::gated_multihead_norm_backward<Heads>(exec, arena, gate.in(), x.in(), weight.data(), biases, mean.data(),
                                              scale.data(), d.out(), dg.out(), dinput.out(), dw.data(),
                                              Bias ? db.data() : nullptr);
  };
  SerialExecutor serial;
  run(serial, y, dy, dgate, dx, dweight, dbias);
  run(threads, y2, dy2, dgate2, dx2, dweight2, dbias2);
  CHECK((y.same_bits(y2) && dgate.same_bits(dgate2) && dx.same_bits(dx2)));
  CHECK((dweight.same_bits(dweight2) && dbias.same_bits(dbias2)));

  reference::Backend<double> reference;
  auto dw = dweight.exact_parameter();
  auto db = dbias.template exact_parameter<N>();
  const auto exact_bias = bias.template exact_parameter<N>();
  reference.gated_multihead_norm<Heads>(gate.exact_out(), x.exact_in(), weight.exact_parameter(), exact_bias, 0.1,
                                        y.exact_out(), mean.exact_data(), scale.exact_data());
  reference.gated_multihead_norm_backward<Heads>(gate.exact_out(), x.exact_in(), weight.exact_parameter(), exact_bias,
                                                 mean.exact_data(), scale.exact_data(), dy.exact_out(),
                                                 dgate.exact_out(), dx.exact_out(), dw, db);
  for (const double error : {y.error(), dgate.error(), dx.error(), dweight.error(), dbias.error()}) {
    CHECK(error <= tolerance);
  }
}

}  // namespace

TEST_CASE("RMS norm on the CPU, forward and backward") {
  cpu::ThreadPool threads(3);
  check_rms_norm<1, true>(1, threads);
  check_rms_norm<7, false>(3, threads);
  check_rms_norm<300, true>(80, threads);
}

TEST_CASE("multi-head norm on the CPU, forward and backward") {
  cpu::ThreadPool threads(3);
  check_multihead_norm<1, 2, true>(1, threads);
  check_multihead_norm<3, 7, false>(5, threads);
  check_multihead_norm<4, 75, true>(80, threads);
}

TEST_CASE("multi-head norm with a gate behind it on the CPU, forward and backward") {
  cpu::ThreadPool threads(3);
  check_gated_multihead_norm<1, 9, true>(1, threads);
  check_gated_multihead_norm<3, 7, false>(5, threads);
  check_gated_multihead_norm<4, 75, true>(80, threads);
}

TEST_CASE("a row of zeros is normed by eps alone") {
  const std::vector<float> zeros(5), ones(5, 1.0F);
  std::vector<float> y(5, 9.0F);
  float mean = 9, scale = 9;
  SerialExecutor serial;
  cpu::rms_norm<SerialExecutor, 5>(serial, {zeros.data(), 1}, ones.data(), nullptr, 1e-4, {y.data(), 1}, &scale);
  CHECK(y == zeros);
  CHECK(scale == Approx(100));
  cpu::multihead_norm<1, SerialExecutor, 5>(serial, {ones.data(), 1}, ones.data(), nullptr, 1e-4, {y.data(), 1}, &mean,
                                            &scale);
  CHECK(y == zeros);
  CHECK(scale == Approx(100));
}
