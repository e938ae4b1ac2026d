// SPDX-License-Identifier: Apache-2.0
// The CPU's element-by-element operations against the reference's in double, on odd sizes, strided rows, more than one
// task; gates far out in the tails too. 2e-6 of the largest value: fp32 exponentials, and products of a few factors.
#include "xlstm/cpu/elementwise.hpp"

#include <algorithm>
#include <limits>

#include "catch.hpp"
#include "cell_cases.hpp"
#include "cpu/same_numbers.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;
using xlstm::tests::OwnGates;

namespace {

constexpr double tolerance = 2e-6;

template <Index D>
struct Operands {
  explicit Operands(Index rows)
      : random(3),
        gate(rows, random, 8),
        x(rows, random),
        dy(rows, random),
        y(rows, random),
        dgate(rows, random),
        dx(rows, random) {
    for (const double far : {-150.0, 150.0}) {
      const Index c = far < 0 ? 0 : D - 1;
      gate.out()(0, c) = static_cast<float>(far);
      gate.exact_out()(0, c) = far;
    }
  }
  Random random;
  SameNumbers<D> gate, x, dy, y, dgate, dx;
};

template <Index D>
void check(Index rows, cpu::ThreadPool& exec) {
  INFO(rows << " rows of " << D);
  reference::Backend<double> reference;
  {
    Operands<D> o(rows);
    cpu::add(exec, o.x.in(), o.y.out());
    reference.add(o.x.exact_in(), o.y.exact_out());
    CHECK(o.y.error() <= tolerance);
  }
  {
    Operands<D> o(rows);
    cpu::swiglu(exec, o.gate.in(), o.x.in(), o.y.out());
    cpu::swiglu_backward(exec, o.gate.in(), o.x.in(), o.dy.in(), o.dgate.out(), o.dx.out());
    reference.swiglu(o.gate.exact_out(), o.x.exact_out(), o.y.exact_out());
    reference.swiglu_backward(o.gate.exact_out(), o.x.exact_out(), o.dy.exact_out(), o.dgate.exact_out(),
                              o.dx.exact_out());
    for (const double error : {o.y.error(), o.dgate.error(), o.dx.error()}) CHECK(error <= tolerance);
    // The gradient may be written over the one that came in.
    cpu::swiglu_backward(exec, o.gate.in(), o.x.in(), o.dy.in(), o.dgate.out(), o.dy.out());
    CHECK((o.dgate.error() <= tolerance && o.dy.same_bits(o.dx)));
  }
  {
    Operands<D> o(rows);
    cpu::soft_cap<SoftCap<3.0>>(exec, o.gate.out());
    reference.soft_cap<SoftCap<3.0>>(o.gate.exact_out());
    CHECK(o.gate.error() <= tolerance);
    cpu::soft_cap<OwnGates::GateCap>(exec, o.dy.out());
    reference.soft_cap<OwnGates::GateCap>(o.dy.exact_out());
    CHECK(o.dy.error() <= tolerance);
    cpu::soft_cap<NoSoftCap>(exec, o.x.out());
    CHECK(o.x.error() == 0);
  }
}

}  // namespace

TEST_CASE("sums, SwiGLU and soft caps on the CPU") {
  cpu::ThreadPool threads(3);
  check<1>(1, threads);
  check<7>(3, threads);
  check<65>(2, threads);
  check<300>(80, threads);
}

TEST_CASE("blocks cover all rows and columns once, however they are cut") {
  SerialExecutor serial;
  for (const Index rows : {0, 1, 100, 16385}) {
    for (const Index cols : {1, 300, 20000}) {
      Index next = 0, next_column = 0;
      cpu::for_row_blocks(serial, rows, cols, [&](Index first, Index count) {
        CHECK((first == next && count > 0));
        next += count;
      });
      cpu::for_column_blocks(serial, cols, [&](Index first, Index count) {
        CHECK((first == next_column && count > 0));
        next_column += count;
      });
      CHECK((next == rows && next_column == cols));
    }
  }
}
