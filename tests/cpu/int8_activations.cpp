// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/int8_activations.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "cpu/normal_values.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/cpu/quantize.hpp"

using namespace xlstm;

namespace {

/// A layer's weights in a backend's format, and what they stand for.
template <QuantizedFormat F, Index Out, Index In>
struct Layer {
  QuantizedWeight<F, Out, In> weight;
  std::vector<std::uint8_t> memory = std::vector<std::uint8_t>(static_cast<std::size_t>(weight.bytes));
  std::vector<float> floats = std::vector<float>(static_cast<std::size_t>(Out * In));

  explicit Layer(unsigned seed) {
    weight.bind(memory.data());
    const std::vector<float> w = normal_values(Out * In, seed);
    for (Index r = 0; r < Out; ++r) {
      std::uint8_t* const codes = weight.codes() + r * weight.row_bytes;
      bf16* const scales = weight.scales() + r * weight.row_scales;
      REQUIRE(cpu::quantize_row<F>(w.data() + r * In, In, codes, scales));
      cpu::dequantize_row<F>(codes, scales, In, floats.data() + r * In);
    }
  }
};

template <class Activations, QuantizedFormat F, Index Out, Index In>
std::vector<float> product(const Layer<F, Out, In>& layer, const std::vector<float>& x, int threads) {
  using B = cpu::Backend<F, Activations>;
  B backend(std::make_shared<typename B::Resources>(typename B::Options{threads}));
  const Index rows = static_cast<Index>(x.size()) / In;
  std::vector<float> y(static_cast<std::size_t>(rows * Out));
  using Term = LinearTerm<QuantizedWeight<F, Out, In>, float>;
  backend.linear(MatrixView<const float, In>(x.data(), rows), Term{layer.weight, nullptr, {y.data(), rows}});
  return y;
}

template <QuantizedFormat F, Index Out, Index In>
void check_products() {
  const Layer<F, Out, In> layer(1);
  for (const Index rows : {1, 3, 4, 7, 12, 33, 61}) {  // one by one, then in tiles of several heights
    const std::vector<float> x = normal_values(rows * In, 2);
    const std::vector<float> y = product<cpu::Int8Activations>(layer, x, 1);
    const std::vector<float> y3 = product<cpu::Int8Activations>(layer, x, 3);
    const std::vector<float> exact = product<cpu::FloatActivations>(layer, x, 1);
    CHECK(std::memcmp(y.data(), y3.data(), y.size() * sizeof(float)) == 0);
    double worst = 0, difference = 0;
    for (Index r = 0; r < rows; ++r) {
      for (Index o = 0; o < Out; ++o) {
        double sum = 0, allowed = 1e-3;
        for (Index first = 0; first < In; first += 64) {
          float largest = 0;
          double magnitude = 0;
          for (Index i = first; i < std::min(In, first + 64); ++i) {
            const float v = x[static_cast<std::size_t>(r * In + i)],
                        w = layer.floats[static_cast<std::size_t>(o * In + i)];
            sum += static_cast<double>(v) * w;
            largest = std::max(largest, std::abs(v));
            magnitude += std::abs(w);
          }
          allowed += largest / 127 / 2 * magnitude;  // every input off by half a step
        }
        const auto at = static_cast<std::size_t>(r * Out + o);
        worst = std::max(worst, std::abs(y[at] - sum) / allowed);
        difference = std::max(difference, std::abs(static_cast<double>(y[at]) - exact[at]));
      }
    }
    INFO(F::name << ' ' << F::group_size << ", " << Out << " x " << In << ", " << rows << " rows");
    CHECK(worst <= 1);
    CHECK((difference > 0) == cpu::has_integer_products);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("Rounded inputs are off by half a step each at most", "[int8_activations]", Int8<32>, Int8<64>,
                   Int8<128>, Int4<32>, Int4<64>, Int4<256>) {
  check_products<TestType, 5, 64>();
  check_products<TestType, 7, 63>();
  check_products<TestType, 21, 193>();
  check_products<TestType, 70, 352>();
  check_products<TestType, 3, 1024>();
  check_products<TestType, 40, 1600>();  // more columns than are packed at once
}

TEST_CASE("Rounded inputs: a row's result depends on no other row, and on their number by rounding only",
          "[int8_activations]") {
  const Layer<int4, 45, 800> layer(5);
  const std::vector<float> x = normal_values(1100 * 800, 6);  // more rows than are packed at once
  const auto rows_of = [&](Index first, Index count) {
    return product<cpu::Int8Activations>(layer, {x.begin() + first * 800, x.begin() + (first + count) * 800}, 2);
  };
  const std::vector<float> all = rows_of(0, 1100);
  for (const Index first : {0, 500, 1080}) {
    const std::vector<float> some = rows_of(first, 13), one = rows_of(first, 1);
    for (std::size_t i = 0; i < some.size(); ++i) {
      const float same = all[static_cast<std::size_t>(first * 45) + i];
      if (cpu::has_integer_products) {
        REQUIRE(some[i] == same);
      } else {
        REQUIRE(std::abs(some[i] - same) < 1e-3F);
      }
      if (i < 45) REQUIRE(std::abs(one[i] - same) < 1e-3F);
    }
  }
}

TEST_CASE("Rounded inputs meet quantised weights and others in one call", "[int8_activations]") {
  const Layer<int8, 20, 130> layer(7);
  std::vector<bf16> gates(6 * 130);
  for (std::size_t i = 0; i < gates.size(); ++i) gates[i] = bf16(layer.floats[i]);
  DenseWeight<bf16, 6, 130> gate;
  gate.bind(gates.data());
  const std::vector<float> bias = normal_values(20, 8);
  for (const Index rows : {1, 5}) {
    using B = cpu::Backend<int8, cpu::Int8Activations>;
    B backend(std::make_shared<B::Resources>(B::Options{2}));
    const std::vector<float> x = normal_values(rows * 130, 9);
    std::vector<float> y(static_cast<std::size_t>(rows * 20)), z(static_cast<std::size_t>(rows * 6));
    backend.linear(MatrixView<const float, 130>(x.data(), rows),
                   LinearTerm<QuantizedWeight<int8, 20, 130>, float>{layer.weight, bias.data(), {y.data(), rows}},
                   LinearTerm<DenseWeight<bf16, 6, 130>, float>{gate, nullptr, {z.data(), rows}});
    const std::vector<float> alone = product<cpu::Int8Activations>(layer, x, 1);
    for (Index r = 0; r < rows; ++r) {
      for (Index o = 0; o < 20; ++o) {
        const auto at = static_cast<std::size_t>(r * 20 + o);
        CHECK(y[at] == Approx(alone[at] + bias[static_cast<std::size_t>(o)]).margin(1e-4));
      }
      for (Index o = 0; o < 6; ++o) {
        double sum = 0;
        for (Index i = 0; i < 130; ++i) {
          sum += static_cast<double>(x[static_cast<std::size_t>(r * 130 + i)]) *
                 static_cast<double>(float{gates[static_cast<std::size_t>(o * 130 + i)]});
        }
        CHECK(z[static_cast<std::size_t>(r * 6 + o)] == Approx(sum).margin(1e-4));  // not rounded
      }
    }
  }
}

TEST_CASE("Inputs that 8 bits hold give exact products", "[int8_activations]") {
  const Layer<int4, 9, 128> layer(3);
  std::vector<float> x(128);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i * 37 % 255) - 127);
  x[0] = x[64] = 127;
  const std::vector<float> y = product<cpu::Int8Activations>(layer, x, 1);
  for (Index o = 0; o < 9; ++o) {
    double sum = 0;
    for (Index i = 0; i < 128; ++i)
      sum += x[static_cast<std::size_t>(i)] * layer.floats[static_cast<std::size_t>(o * 128 + i)];
    CHECK(y[static_cast<std::size_t>(o)] == Approx(sum).epsilon(1e-5).margin(1e-3));
  }
}

TEST_CASE("Zero inputs give zeros, and what is not finite stays visible", "[int8_activations]") {
  const Layer<int8, 9, 192> layer(4);
  std::vector<float> x(192, 0.0F);
  for (const float y : product<cpu::Int8Activations>(layer, x, 1)) CHECK(y == 0);
  for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    x[100] = wrong;
    for (const float y : product<cpu::Int8Activations>(layer, x, 1)) CHECK(!std::isfinite(y));
  }
}
