// SPDX-License-Identifier: Apache-2.0
// core/quantization.hpp, cpu/quantize.hpp and cpu/quantized_rows.hpp: layout, rounding, products.
#include "xlstm/cpu/quantize.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "cpu/normal_values.hpp"
#include "xlstm/cpu/linear.hpp"
#include "xlstm/cpu/thread_pool.hpp"

using namespace xlstm;

namespace {

template <class F>
struct Quantized {
  Index out, in;
  std::vector<float> original;
  std::vector<std::uint8_t> codes;
  std::vector<bf16> scales;

  Quantized(Index o, Index i, std::vector<float> weights, cpu::ThreadPool& pool)
      : out(o),
        in(i),
        original(std::move(weights)),
        codes(static_cast<std::size_t>(o * F::row_bytes(i))),
        scales(static_cast<std::size_t>(o * F::groups(i))) {
    const Index wrong = cpu::quantize_rows<F>(
        pool, out, in, [&](Index r, float* row) { std::copy_n(original.data() + r * in, in, row); }, codes.data(),
        scales.data());
    REQUIRE(wrong == -1);
  }
  auto rows() const { return cpu::weight_rows<F>(codes.data(), scales.data(), in); }
  std::vector<float> floats() const {
    std::vector<float> w(original.size());
    for (Index r = 0; r < out; ++r) {
      cpu::dequantize_row<F>(codes.data() + r * F::row_bytes(in), scales.data() + r * F::groups(in), in,
                             w.data() + r * in);
    }
    return w;
  }
};

struct Shape {
  Index out, in;
};
const Shape shapes[] = {{1, 1}, {3, 17}, {5, 31}, {4, 32}, {7, 33}, {16, 63}, {9, 64}, {2, 65}, {33, 96}, {70, 391}};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

#define FORMATS Int8<32>, Int8<64>, Int8<128>, Int4<32>, Int4<64>, Int4<256>

TEST_CASE("int8: a byte a column, rows padded with zeros to 32 columns", "[quantized]") {
  std::vector<float> row(70, 0.0F);
  row[0] = 127, row[1] = -127, row[2] = 1.4F, row[3] = -1.6F, row[64] = 0.5F, row[69] = -0.5F;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(Int8<64>::row_bytes(70)), 99);
  std::vector<bf16> scales(static_cast<std::size_t>(Int8<64>::groups(70)));
  REQUIRE(codes.size() == 96);
  REQUIRE(scales.size() == 2);
  REQUIRE(cpu::quantize_row<Int8<64>>(row.data(), 70, codes.data(), scales.data()));
  CHECK(static_cast<float>(scales[0]) == 1.0F);
  const auto code = [&](std::size_t i) { return static_cast<int>(static_cast<std::int8_t>(codes[i])); };
  CHECK(code(0) == 127);
  CHECK(code(1) == -127);
  CHECK(code(2) == 1);
  CHECK(code(3) == -2);
  CHECK(code(64) > 125);
  CHECK(code(69) == -code(64));
  for (std::size_t i = 70; i < 96; ++i) CHECK(code(i) == 0);
}

TEST_CASE("int4: a run of 32 columns is 16 bytes, the second half of them in the upper bits", "[quantized]") {
  for (const Index column : {0, 5, 15, 16, 31, 32, 47, 48, 66}) {
    std::vector<float> row(67, 0.0F);
    row[static_cast<std::size_t>(column)] = 1;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(int4::row_bytes(67)), 99);
    std::vector<bf16> scales(static_cast<std::size_t>(int4::groups(67)));
    REQUIRE(codes.size() == 48);
    REQUIRE(scales.size() == 3);
    REQUIRE(cpu::quantize_row<int4>(row.data(), 67, codes.data(), scales.data()));
    for (Index i = 0; i < 96; ++i) {
      const int byte = codes[static_cast<std::size_t>(i / 32 * 16 + i % 16)];
      const int code = (i % 32 < 16 ? byte & 15 : byte >> 4) - 8;
      const float scale = i < 67 ? static_cast<float>(scales[static_cast<std::size_t>(i / 32)]) : 0.0F;
      if (i == column) {
        CHECK(static_cast<float>(code) * scale == Approx(1).epsilon(1e-2));
      } else {
        CHECK(code == 0);
      }
    }
  }
}

TEST_CASE("int8 is off by half a scale at most, which is 1/127 of a group's largest weight", "[quantized]") {
  cpu::ThreadPool pool(1);
  for (const Shape s : shapes) {
    const Quantized<Int8<64>> q(s.out, s.in, normal_values(s.out * s.in, 1), pool);
    const std::vector<float> back = q.floats();
    for (Index r = 0; r < s.out; ++r) {
      for (Index i = 0; i < s.in; ++i) {
        const Index first = i / 64 * 64, last = std::min(s.in, first + 64);
        float largest = 0;
        for (Index j = first; j < last; ++j) {
          largest = std::max(largest, std::abs(q.original[static_cast<std::size_t>(r * s.in + j)]));
        }
        const auto at = static_cast<std::size_t>(r * s.in + i);
        const float scale = q.scales[static_cast<std::size_t>(r * Int8<64>::groups(s.in) + i / 64)];
        CHECK(scale >= largest / 127);
        CHECK(scale <= largest / 127 * (1 + 0x1p-7F));
        CHECK(std::abs(back[at] - q.original[at]) <= scale * 0.5001F);
      }
    }
  }
}

TEST_CASE("int4's squared error in a group is at most that of the plain scale largest/7", "[quantized]") {
  cpu::ThreadPool pool(1);
  double chosen = 0, plain = 0;
  for (const Shape s : shapes) {
    const Quantized<int4> q(s.out, s.in, normal_values(s.out * s.in, 2), pool);
    const std::vector<float> back = q.floats();
    for (Index r = 0; r < s.out; ++r) {
      for (Index first = 0; first < s.in; first += 32) {
        double error = 0, plain_error = 0;
        float largest = 0;
        for (Index i = first; i < std::min(s.in, first + 32); ++i) {
          largest = std::max(largest, std::abs(q.original[static_cast<std::size_t>(r * s.in + i)]));
        }
        const float scale = static_cast<float>(bf16(largest / 7));
        for (Index i = first; i < std::min(s.in, first + 32); ++i) {
          const auto at = static_cast<std::size_t>(r * s.in + i);
          const float w = q.original[at];
          error += std::pow(back[at] - w, 2);
          plain_error += std::pow(std::clamp(std::nearbyint(w / scale), -8.0F, 7.0F) * scale - w, 2);
        }
        CHECK(error <= plain_error * 1.0001 + 1e-12);
        chosen += error, plain += plain_error;
      }
    }
  }
  CHECK(chosen < 0.9 * plain);  // the search is worth its time
}

TEST_CASE("Zeros stay zeros, and what no scale can represent is refused", "[quantized]") {
  cpu::ThreadPool pool(1);
  const auto check = [&]<class F>(F) {
    std::vector<float> row(40, 0.0F);
    const Quantized<F> zeros(1, 40, row, pool);
    CHECK(zeros.floats() == row);
    row[39] = 1e-40F;
    CHECK(Quantized<F>(1, 40, row, pool).floats() == std::vector<float>(40, 0.0F));
    for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(), 2e30F}) {
      std::vector<float> some(9 * 40, 1.0F);
      some[5 * 40 + 39] = wrong;
      some[7 * 40] = wrong;
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(9 * F::row_bytes(40)));
      std::vector<bf16> scales(static_cast<std::size_t>(9 * F::groups(40)));
      CHECK(cpu::quantize_rows<F>(
                pool, 9, 40, [&](Index r, float* to) { std::copy_n(some.data() + r * 40, 40, to); }, codes.data(),
                scales.data()) == 5);
    }
    row[39] = 1e30F;
    for (const float w : Quantized<F>(1, 40, row, pool).floats()) CHECK(std::isfinite(w));
  };
  check(int8{});
  check(int4{});
}

TEMPLATE_TEST_CASE("Products with quantised weights have the bits of those with the same weights as floats",
                   "[quantized]", FORMATS) {
  using F = TestType;
  cpu::ThreadPool one(1), three(3);
  Arena arena;
  for (const Shape s : shapes) {
    const Quantized<F> q(s.out, s.in, normal_values(s.out * s.in, 3), one);
    const std::vector<float> w = q.floats();
    const std::vector<float> bias = normal_values(s.out, 4);
    for (const Index rows : {1, 2, 5, 32, 33, 70}) {
      const std::vector<float> x = normal_values(rows * s.in, 5);
      const MatrixView<const float> input(x.data(), rows, s.in);
      std::vector<float> expected(static_cast<std::size_t>(rows * s.out)), y1 = expected, y3 = expected;
      cpu::linear(one, arena, input, w.data(), s.out, s.in, bias.data(), {expected.data(), rows, s.out});
      cpu::linear(one, arena, input, q.rows(), s.out, s.in, bias.data(), {y1.data(), rows, s.out});
      cpu::linear(three, arena, input, q.rows(), s.out, s.in, bias.data(), {y3.data(), rows, s.out});
      INFO(s.out << " x " << s.in << ", " << rows << " rows");
      CHECK(same_bits(y1, expected));
      CHECK(same_bits(y3, expected));
    }
  }
}

TEST_CASE("Rounding does not depend on the number of threads", "[quantized]") {
  cpu::ThreadPool one(1), three(3);
  const std::vector<float> w = normal_values(100 * 77, 6);
  const Quantized<int4> a(100, 77, w, one), b(100, 77, w, three);
  CHECK(a.codes == b.codes);
  CHECK(std::memcmp(a.scales.data(), b.scales.data(), a.scales.size() * sizeof(bf16)) == 0);
}

TEST_CASE("One group may hold weights of several formats", "[quantized]") {
  cpu::ThreadPool pool(2);
  Arena arena;
  const Quantized<int8> a(40, 65, normal_values(40 * 65, 7), pool);
  const Quantized<int4> b(9, 65, normal_values(9 * 65, 8), pool);
  const std::vector<float> c = normal_values(3 * 65, 9);
  const std::vector<float> wa = a.floats(), wb = b.floats();
  for (const Index rows : {1, 40}) {
    const std::vector<float> x = normal_values(rows * 65, 10);
    const MatrixView<const float> input(x.data(), rows, 65);
    const auto in_rows = [rows](Index n) { return std::vector<float>(static_cast<std::size_t>(rows * n)); };
    std::vector<float> ya = in_rows(40), yb = in_rows(9), yc = in_rows(3), ea = ya, eb = yb, ec = yc;
    const auto ra = a.rows();
    const auto rb = b.rows();
    const cpu::PlainRows<float> rc{c.data(), 65};
    const cpu::WeightTask tasks[] = {{cpu::AnyWeightRows(ra), 40, nullptr, {ya.data(), rows, 40}},
                                     {cpu::AnyWeightRows(rb), 9, nullptr, {yb.data(), rows, 9}},
                                     {cpu::AnyWeightRows(rc), 3, nullptr, {yc.data(), rows, 3}}};
    cpu::linear_group(pool, arena, input, 65, std::span<const cpu::WeightTask>(tasks));
    cpu::linear(pool, arena, input, wa.data(), 40, 65, nullptr, {ea.data(), rows, 40});
    cpu::linear(pool, arena, input, wb.data(), 9, 65, nullptr, {eb.data(), rows, 9});
    cpu::linear(pool, arena, input, c.data(), 3, 65, nullptr, {ec.data(), rows, 3});
    CHECK(same_bits(ya, ea));
    CHECK(same_bits(yb, eb));
    CHECK(same_bits(yc, ec));
  }
}
