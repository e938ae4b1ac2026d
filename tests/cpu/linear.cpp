// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/linear.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/cpu/thread_pool.hpp"

using namespace xlstm;
using cpu::ThreadPool;

namespace {

/// A matrix with a row stride, and a border around each row that nobody may write.
struct Matrix {
  Index rows, cols, stride;
  std::vector<float> values;
  static constexpr float border = -77.0F;

  Matrix(Index r, Index c, Index gap = 0)
      : rows(r), cols(c), stride(c + gap), values(static_cast<std::size_t>(r * (c + gap)), border) {}
  template <class Random>
  Matrix& fill(Random& random) {
    std::normal_distribution<float> normal;
    for (Index i = 0; i < rows; ++i) {
      for (Index j = 0; j < cols; ++j) (*this)(i, j) = normal(random);
    }
    return *this;
  }
  float& operator()(Index i, Index j) { return values[static_cast<std::size_t>(i * stride + j)]; }
  float operator()(Index i, Index j) const { return values[static_cast<std::size_t>(i * stride + j)]; }
  MatrixView<float> view() { return {values.data(), rows, cols, stride}; }
  MatrixView<const float> view() const { return {values.data(), rows, cols, stride}; }
  bool border_untouched() const {
    for (Index i = 0; i < rows; ++i) {
      for (Index j = cols; j < stride; ++j) {
        if ((*this)(i, j) != border) return false;
      }
    }
    return true;
  }
};

template <class W>
std::vector<W> random_weights(Index count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<W> w(static_cast<std::size_t>(count));
  for (W& e : w) e = static_cast<W>(normal(random));
  return w;
}

// A sum of n products in fp32, in any order, is off by at most about n·2^-24·Σ|a·b|; a blocked one by far less. With
// the constant 8 instead of n, a wrong, missing or doubled term (about 1 here, √n as the sum) is far outside.
double allowed(double sum_of_magnitudes) { return 8 * 0x1p-24 * sum_of_magnitudes + 1e-30; }

/// The largest |result − Σ| / allowed over the elements of y, with Σ in double.
template <class Term>
double worst(const Matrix& y, Index depth, Term&& term) {
  double w = 0;
  for (Index i = 0; i < y.rows; ++i) {
    for (Index j = 0; j < y.cols; ++j) {
      double sum = 0, magnitude = 0;
      for (Index k = -1; k < depth; ++k) {  // k = -1: what is added to the products
        const double t = term(i, j, k);
        sum += t;
        magnitude += std::abs(t);
      }
      const double ratio = std::abs(static_cast<double>(y(i, j)) - sum) / allowed(magnitude);
      if (!(ratio <= w)) w = ratio;
    }
  }
  return w;
}

struct Shape {
  Index rows, out, in;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {1, 1, 1},    {1, 5, 3},     {3, 1, 17},    {1, 67, 129},  {2, 12, 64},   {5, 31, 37},   {7, 13, 385},
      {16, 40, 96}, {25, 3, 5},    {29, 33, 48},  {31, 1, 7},    {41, 97, 101}, {64, 64, 64},  {53, 45, 771},
      {27, 600, 9}, {1030, 35, 6}, {1, 300, 768}, {32, 130, 65}, {33, 130, 65}, {100, 6, 512}, {2050, 8, 333},
  };
  return all;
}

template <class W>
void forward_matches() {
  std::mt19937 random(1);
  for (const Shape& s : shapes()) {
    const auto weight = random_weights<W>(s.out * s.in, random);
    const auto bias = random_weights<float>(s.out, random);
    const Matrix x = Matrix(s.rows, s.in, 3).fill(random);
    for (const bool with_bias : {false, true}) {
      Matrix first(s.rows, s.out, 5);
      for (const int threads : {1, 2, 3, 5}) {
        ThreadPool pool(threads);
        Arena arena;
        Matrix y(s.rows, s.out, 5);
        cpu::linear(pool, arena, x.view(), weight.data(), s.out, s.in, with_bias ? bias.data() : nullptr, y.view());
        CAPTURE(s.rows, s.out, s.in, threads, with_bias);
        REQUIRE(y.border_untouched());
        if (threads == 1) {
          first = y;
          REQUIRE(worst(y, s.in, [&](Index i, Index j, Index k) {
                    if (k < 0) return with_bias ? static_cast<double>(bias[static_cast<std::size_t>(j)]) : 0.0;
                    return double{x(i, k)} * static_cast<double>(float{weight[static_cast<std::size_t>(j * s.in + k)]});
                  }) <= 1);
        }
        REQUIRE(std::memcmp(y.values.data(), first.values.data(), y.values.size() * sizeof(float)) == 0);
      }
    }
  }
}

template <class W>
void backward_input_matches() {
  std::mt19937 random(2);
  for (const Shape& s : shapes()) {
    const auto weight = random_weights<W>(s.out * s.in, random);
    const Matrix dy = Matrix(s.rows, s.out, 2).fill(random);
    const Matrix before = Matrix(s.rows, s.in, 4).fill(random);
    for (const bool add : {false, true}) {
      Matrix first(s.rows, s.in, 4);
      for (const int threads : {1, 2, 3, 5}) {
        ThreadPool pool(threads);
        Arena arena;
        Matrix dx = before;
        cpu::linear_backward_input(pool, arena, dy.view(), weight.data(), s.out, s.in, dx.view(), add);
        CAPTURE(s.rows, s.out, s.in, threads, add);
        REQUIRE(dx.border_untouched());
        if (threads == 1) {
          first = dx;
          REQUIRE(worst(dx, s.out, [&](Index i, Index j, Index k) {
                    if (k < 0) return add ? static_cast<double>(before(i, j)) : 0.0;
                    return double{dy(i, k)} *
                           static_cast<double>(float{weight[static_cast<std::size_t>(k * s.in + j)]});
                  }) <= 1);
        }
        REQUIRE(std::memcmp(dx.values.data(), first.values.data(), dx.values.size() * sizeof(float)) == 0);
      }
    }
  }
}

}  // namespace

TEST_CASE("linear is x Wᵀ + bias, bit for bit the same on any number of threads", "[linear]") {
  SECTION("float") { forward_matches<float>(); }
  SECTION("bf16") { forward_matches<bf16>(); }
  SECTION("f16") { forward_matches<f16>(); }
}

TEST_CASE("linear_backward_input is dy W, set or added", "[linear]") {
  SECTION("float") { backward_input_matches<float>(); }
  SECTION("bf16") { backward_input_matches<bf16>(); }
  SECTION("f16") { backward_input_matches<f16>(); }
}

TEST_CASE("linear_backward_weight adds dyᵀ x and the sum of dy", "[linear]") {
  std::mt19937 random(3);
  for (const Shape& s : shapes()) {
    const Matrix dy = Matrix(s.rows, s.out, 2).fill(random);
    const Matrix x = Matrix(s.rows, s.in, 1).fill(random);
    const Matrix before = Matrix(s.out, s.in).fill(random);
    const Matrix bias_before = Matrix(1, s.out).fill(random);
    Matrix first(s.out, s.in), bias_first(1, s.out);
    for (const int threads : {1, 2, 3, 5}) {
      ThreadPool pool(threads);
      Arena arena;
      Matrix dw = before, db = bias_before;
      cpu::linear_backward_weight(pool, arena, dy.view(), x.view(), dw.values.data(), db.values.data());
      CAPTURE(s.rows, s.out, s.in, threads);
      if (threads == 1) {
        first = dw;
        bias_first = db;
        REQUIRE(worst(dw, s.rows, [&](Index i, Index j, Index k) {
                  return k < 0 ? static_cast<double>(before(i, j)) : double{dy(k, i)} * double{x(k, j)};
                }) <= 1);
        REQUIRE(worst(db, s.rows, [&](Index, Index j, Index k) {
                  return k < 0 ? static_cast<double>(bias_before(0, j)) : double{dy(k, j)};
                }) <= 1);
        Matrix without_bias = before;
        cpu::linear_backward_weight(pool, arena, dy.view(), x.view(), without_bias.values.data(), nullptr);
        REQUIRE(without_bias.values == dw.values);
      }
      REQUIRE(dw.values == first.values);
      REQUIRE(db.values == bias_first.values);
    }
  }
}

TEST_CASE("linear_backward goes back through all layers of one x, bit for bit the same on any number of threads",
          "[linear]") {
  std::mt19937 random(14);
  const Index in = 70;
  const std::vector<Index> outs = {40, 4, 530, 1};
  // Few rows; the same for all threads; so many that each thread has its own, and that their sum is cut into parts.
  const Index rows = GENERATE(0, 5, 90, 2100);
  CAPTURE(rows);
  const Matrix x = Matrix(rows, in, 1).fill(random);
  std::vector<Matrix> dys, before, bias_before;
  std::vector<std::vector<float>> weights;
  for (const Index out : outs) {
    dys.push_back(Matrix(rows, out, 2).fill(random));
    before.push_back(Matrix(out, in).fill(random));
    bias_before.push_back(Matrix(1, out).fill(random));
    weights.push_back(random_weights<float>(out * in, random));
  }
  Matrix first_dx(rows, in, 3);
  std::vector<Matrix> first_dw, first_db;
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    ThreadPool pool(threads);
    Arena arena;
    Matrix dx(rows, in, 3);
    auto dw = before, db = bias_before;
    std::vector<cpu::LinearBackwardTask<float>> tasks;
    for (std::size_t t = 0; t < outs.size(); ++t) {
      const bool with_bias = t == 1;
      tasks.push_back({std::as_const(dys[t]).view(), weights[t].data(), dw[t].values.data(),
                       with_bias ? db[t].values.data() : nullptr});
    }
    cpu::linear_backward(pool, arena, x.view(), std::span<const cpu::LinearBackwardTask<float>>(tasks), dx.view());
    REQUIRE(dx.border_untouched());
    if (threads == 1) {
      first_dx = dx, first_dw = dw, first_db = db;
      const Index all = 40 + 4 + 530 + 1;
      REQUIRE(worst(dx, all, [&](Index i, Index j, Index k) {
                if (k < 0) return 0.0;
                std::size_t t = 0;
                for (; k >= outs[t]; ++t) k -= outs[t];
                return double{std::as_const(dys[t])(i, k)} * double{weights[t][static_cast<std::size_t>(k * in + j)]};
              }) <= 1);
      for (std::size_t t = 0; t < outs.size(); ++t) {
        const Matrix& dy = dys[t];
        REQUIRE(worst(dw[t], rows, [&](Index i, Index j, Index k) {
                  return k < 0 ? double{std::as_const(before[t])(i, j)} : double{dy(k, i)} * double{x(k, j)};
                }) <= 1);
        REQUIRE(worst(db[t], t == 1 ? rows : 0, [&](Index, Index j, Index k) {
                  return k < 0 ? double{std::as_const(bias_before[t])(0, j)} : double{dy(k, j)};
                }) <= 1);
      }
    }
    REQUIRE(dx.values == first_dx.values);
    for (std::size_t t = 0; t < outs.size(); ++t) {
      REQUIRE(dw[t].values == first_dw[t].values);
      REQUIRE(db[t].values == first_db[t].values);
    }
  }
}

TEST_CASE("a group of products of one x gives the bits of the single ones", "[linear]") {
  std::mt19937 random(4);
  const Index in = 70;
  const std::vector<Index> outs = {5, 130, 1, 0, 64};
  for (const Index rows : {Index{1}, Index{4}, Index{8}, Index{90}}) {
    const Matrix x = Matrix(rows, in).fill(random);
    std::vector<std::vector<bf16>> weights;
    std::vector<Matrix> grouped, single;
    std::vector<cpu::LinearTask<bf16>> tasks;
    for (const Index out : outs) {
      weights.push_back(random_weights<bf16>(out * in, random));
      grouped.emplace_back(rows, out);
      single.emplace_back(rows, out);
    }
    const auto bias = random_weights<float>(130, random);
    for (std::size_t t = 0; t < outs.size(); ++t) {
      tasks.push_back({weights[t].data(), outs[t], t == 1 ? bias.data() : nullptr, grouped[t].view()});
    }
    ThreadPool pool(3);
    Arena arena;
    cpu::linear_group(pool, arena, x.view(), in, std::span<const cpu::LinearTask<bf16>>(tasks));
    for (std::size_t t = 0; t < outs.size(); ++t) {
      cpu::linear(pool, arena, x.view(), tasks[t].weight, tasks[t].out, in, tasks[t].bias, single[t].view());
      CAPTURE(rows, t);
      REQUIRE(grouped[t].values == single[t].values);
    }
  }
}

TEST_CASE("layers too large to be packed together give the bits of one after the other", "[linear]") {
  std::mt19937 random(15);
  const Index rows = 1100, in = 300;  // enough rows that each thread has its own; 2.3 MB of packed weights
  const std::vector<Index> outs = {600, 700};
  const Matrix x = Matrix(rows, in).fill(random);
  std::vector<Matrix> together, single, dys, dw;
  std::vector<std::vector<float>> weights;
  for (const Index out : outs) {
    weights.push_back(random_weights<float>(out * in, random));
    together.emplace_back(rows, out);
    single.emplace_back(rows, out);
    dys.push_back(Matrix(rows, out).fill(random));
    dw.push_back(Matrix(out, in).fill(random));
  }
  std::vector<cpu::LinearTask<float>> tasks;
  std::vector<cpu::LinearBackwardTask<float>> backward_tasks;
  for (std::size_t t = 0; t < outs.size(); ++t) {
    tasks.push_back({weights[t].data(), outs[t], nullptr, together[t].view()});
    backward_tasks.push_back({std::as_const(dys[t]).view(), weights[t].data(), dw[t].values.data(), nullptr});
  }
  ThreadPool pool(2);
  Arena arena;
  cpu::linear_group(pool, arena, x.view(), in, std::span<const cpu::LinearTask<float>>(tasks));
  Matrix dx(rows, in), one_by_one(rows, in);
  cpu::linear_backward(pool, arena, x.view(), std::span<const cpu::LinearBackwardTask<float>>(backward_tasks),
                       dx.view());
  for (std::size_t t = 0; t < outs.size(); ++t) {
    CAPTURE(t);
    cpu::linear(pool, arena, x.view(), weights[t].data(), outs[t], in, nullptr, single[t].view());
    REQUIRE(together[t].values == single[t].values);
    cpu::linear_backward_input(pool, arena, std::as_const(dys[t]).view(), weights[t].data(), outs[t], in,
                               one_by_one.view(), t > 0);
  }
  REQUIRE(dx.values == one_by_one.values);
}

TEST_CASE("a row's result depends on no other row, and on their number by rounding only", "[linear]") {
  std::mt19937 random(5);
  const Index in = 500, out = GENERATE(45, 5);
  const auto weight = random_weights<float>(out * in, random);
  const Matrix x = Matrix(200, in).fill(random);
  ThreadPool pool(2);
  Arena arena;
  const auto product = [&](Index first, Index rows) {
    Matrix y(rows, out);
    cpu::linear(pool, arena, x.view().middle_rows(first, rows), weight.data(), out, in, nullptr, y.view());
    return y;
  };
  const Matrix all = product(0, 200), middle = product(37, 80), few = product(37, cpu::few_rows), one = product(37, 1);
  for (Index j = 0; j < out; ++j) {
    for (Index i = 0; i < 80; ++i) REQUIRE(middle(i, j) == all(37 + i, j));
    REQUIRE(one(0, j) == few(0, j));
    REQUIRE(std::abs(one(0, j) - all(37, j)) < 1e-4F);
  }
}

TEST_CASE("the products of up to 32 rows with bf16 weights: as precise and as independent of each other", "[linear]") {
  std::mt19937 random(9);
  ThreadPool pool(2);
  Arena arena;
  for (const Index in : {Index{31}, Index{64}, Index{161}}) {
    for (const Index out : {Index{6}, Index{47}, Index{115}, Index{700}}) {
      const auto weight = random_weights<bf16>(out * in, random);
      const Matrix x = Matrix(cpu::few_rows, in, 1).fill(random);
      Matrix all(cpu::few_rows, out);
      cpu::linear(pool, arena, x.view(), weight.data(), out, in, nullptr, all.view());
      for (Index rows = 1; rows <= cpu::few_rows; ++rows) {
        Matrix y(rows, out, 3);
        cpu::linear(pool, arena, x.view().middle_rows(0, rows), weight.data(), out, in, nullptr, y.view());
        CAPTURE(in, out, rows);
        REQUIRE(y.border_untouched());
        REQUIRE(worst(y, in, [&](Index i, Index j, Index k) {
                  if (k < 0) return 0.0;
                  return double{x(i, k)} * static_cast<double>(float{weight[static_cast<std::size_t>(j * in + k)]});
                }) <= 1);
        if (rows < cpu::AmxRowTuning::least_rows) continue;
        for (Index i = 0; i < rows; ++i) {
          for (Index j = 0; j < out; ++j) REQUIRE(y(i, j) == all(i, j));
        }
      }
    }
  }
}

TEST_CASE("weights lie where the file put them: at two-byte alignment, up to its last byte", "[linear]") {
  std::mt19937 random(6);
  const Index out = 13, in = 21;
  for (const Index rows : {Index{1}, Index{8}, Index{40}}) {
    const auto weight = random_weights<bf16>(out * in, random);
    std::vector<bf16> shifted(weight.size() + 1);
    std::copy(weight.begin(), weight.end(), shifted.begin() + 1);
    shifted.shrink_to_fit();
    const Matrix x = Matrix(rows, in).fill(random);
    Matrix y(rows, out), z(rows, out);
    SerialExecutor serial;
    Arena arena;
    cpu::linear(serial, arena, x.view(), weight.data(), out, in, nullptr, y.view());
    cpu::linear(serial, arena, x.view(), shifted.data() + 1, out, in, nullptr, z.view());
    REQUIRE(y.values == z.values);
  }
}

TEST_CASE("an infinity or NaN in one row stays in that row", "[linear]") {
  std::mt19937 random(7);
  const Index in = 33, out = 20;
  const auto check = [&](const auto& weight) {
    for (const Index rows : {Index{3}, Index{9}, Index{60}}) {
      for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        Matrix x = Matrix(rows, in).fill(random);
        x(1, 32) = value;
        Matrix y(rows, out);
        SerialExecutor serial;
        Arena arena;
        cpu::linear(serial, arena, x.view(), weight.data(), out, in, nullptr, y.view());
        for (Index i = 0; i < rows; ++i) {
          for (Index j = 0; j < out; ++j) REQUIRE(std::isfinite(y(i, j)) == (i != 1));
        }
      }
    }
  };
  check(random_weights<float>(out * in, random));
  check(random_weights<bf16>(out * in, random));
}

TEST_CASE("no rows, no outputs, no inputs", "[linear]") {
  SerialExecutor serial;
  Arena arena;
  const std::vector<float> weight(12, 1.0F), bias = {1, 2, 3};
  Matrix none(0, 4), y(0, 3), empty_x(2, 0), two(2, 3);
  cpu::linear(serial, arena, none.view(), weight.data(), 3, 4, nullptr, y.view());
  cpu::linear(serial, arena, empty_x.view(), weight.data(), 3, 0, bias.data(), two.view());
  REQUIRE(two.values == std::vector<float>{1, 2, 3, 1, 2, 3});
  Matrix many_x(60, 0), many(60, 3);
  cpu::linear(serial, arena, many_x.view(), weight.data(), 3, 0, bias.data(), many.view());
  REQUIRE(many(59, 2) == 3);
}

TEST_CASE("scratch comes from the arena, which stops growing", "[linear]") {
  std::mt19937 random(8);
  const Index rows = 300, in = 200, out = 150;
  const auto weight = random_weights<f16>(out * in, random);
  const Matrix x = Matrix(rows, in).fill(random);
  Matrix y(rows, out), dx(rows, in), dw(out, in);
  ThreadPool pool(2);
  Arena arena;
  const auto step = [&] {
    cpu::linear(pool, arena, x.view(), weight.data(), out, in, nullptr, y.view());
    cpu::linear_backward_input(pool, arena, y.view(), weight.data(), out, in, dx.view(), false);
    cpu::linear_backward_weight(pool, arena, y.view(), x.view(), dw.values.data(), nullptr);
  };
  step();
  step();
  const Index before = arena.system_allocations();
  for (int i = 0; i < 3; ++i) step();
  REQUIRE(before > 0);
  REQUIRE(arena.system_allocations() == before);
}
