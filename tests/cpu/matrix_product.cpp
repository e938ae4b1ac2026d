// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/matrix_product.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "catch.hpp"
#include "cpu/normal_values.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/cpu/amx_tiles.hpp"
#include "xlstm/cpu/quantized_rows.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/cpu/vector_tiles.hpp"

using namespace xlstm;

namespace {

/// Every kind of tile that this machine can run.
template <class F>
void for_each_kind(F&& f) {
  f(cpu::VectorTiles{}, "vectors");
#if defined(XLSTM_SIMD_AMX)
  if (cpu::amx::permitted()) {
    f(cpu::AmxTiles<cpu::HighestPrecision>{}, "AMX");
    f(cpu::AmxTiles<cpu::HighPrecision>{}, "AMX, high precision");
  }
#endif
}

/// The largest error that a product a·b of two elements may have, beside rounding in fp32, over |a·b|.
template <class Tiles>
constexpr double left_out = 0x1p-21;
#if defined(XLSTM_SIMD_AMX)
template <>
constexpr double left_out<cpu::AmxTiles<cpu::HighPrecision>> = 3 * 0x1p-16;
#endif
/// As in linear.cpp, sums in fp32 are allowed 8·2^-24·Σ|a·b|, which has room for what the highest precision leaves out.
template <class Tiles>
constexpr double allowed = std::max(8 * 0x1p-24, left_out<Tiles>);

float at(const std::vector<float>& values, Index i) { return values[static_cast<std::size_t>(i)]; }

struct Shape {
  Index m, n, depth;
};
// Around the sides of every tile, and beyond the blocks: of the summation (256, 384, 512, and 3840 packed at once), of
// rows (512, 1022) and of columns (256, 512).
const std::vector<Shape> shapes = {{1, 1, 1},     {5, 3, 2},      {16, 16, 32},  {17, 33, 31},
                                   {32, 32, 64},  {33, 31, 47},   {48, 15, 33},  {64, 70, 100},
                                   {70, 9, 1030}, {1050, 20, 12}, {20, 1100, 9}, {3, 5, 4100}};

/// The largest error over what the tiles are allowed.
template <class Tiles, class A, class B>
double worst(const std::vector<float>& c, const Shape& s, const std::vector<float>& before, A&& a, B&& b) {
  double largest = 0;
  for (Index i = 0; i < s.m; ++i) {
    for (Index j = 0; j < s.n; ++j) {
      double sum = static_cast<double>(at(before, i * s.n + j)), magnitude = std::abs(sum);
      for (Index k = 0; k < s.depth; ++k) {
        const double term = static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
        sum += term;
        magnitude += std::abs(term);
      }
      const double ratio =
          std::abs(static_cast<double>(at(c, i * s.n + j)) - sum) / (allowed<Tiles> * magnitude + 1e-30);
      if (!(ratio <= largest)) largest = ratio;
    }
  }
  return largest;
}

template <class Tiles, class A, class B, class Exec>
std::vector<float> product(const A& a, const B& b, const Shape& s, const std::vector<float>& before, Exec& exec) {
  std::vector<float> c = before;
  const cpu::ProductTask<B> task{b, s.n, nullptr, MatrixView<float>(c.data(), s.m, s.n), true};
  Arena arena;
  cpu::detail::tiled_products<Tiles>(exec, arena, a, s.m, s.depth, std::span<const cpu::ProductTask<B>>(&task, 1));
  return c;
}
template <class Tiles, class A, class B>
std::vector<float> product(const A& a, const B& b, const Shape& s, const std::vector<float>& before) {
  SerialExecutor serial;
  return product<Tiles>(a, b, s, before, serial);
}

template <class W>
void every_operand_is_packed() {
  std::mt19937 random(11);
  for (const Shape& s : shapes) {
    const auto a = normal_values(s.m * s.depth, random), before = normal_values(s.m * s.n, random);
    std::vector<W> b;
    for (const float v : normal_values(s.n * s.depth, random)) b.push_back(static_cast<W>(v));
    const auto of_b = [&](Index i) { return static_cast<float>(b[static_cast<std::size_t>(i)]); };
    for_each_kind([&](auto tiles, const char* kind) {
      using Tiles = decltype(tiles);
      CAPTURE(kind, s.m, s.n, s.depth);
      const auto rows = [&](Index i, Index k) { return at(a, i * s.depth + k); };
      const auto columns = [&](Index i, Index k) { return at(a, k * s.m + i); };
      const auto transposed = [&](Index k, Index j) { return of_b(j * s.depth + k); };
      const auto plain = [&](Index k, Index j) { return of_b(k * s.n + j); };
      const cpu::RowsOfA rows_of_a{a.data(), s.depth};
      const cpu::ColumnsOfA columns_of_a{a.data(), s.m};
      const cpu::TransposedB<cpu::PlainRows<W>> transposed_b{{b.data(), s.depth}};
      const cpu::PlainB<cpu::PlainRows<W>> plain_b{{b.data(), s.n}};
      REQUIRE(worst<Tiles>(product<Tiles>(rows_of_a, transposed_b, s, before), s, before, rows, transposed) <= 1);
      REQUIRE(worst<Tiles>(product<Tiles>(rows_of_a, plain_b, s, before), s, before, rows, plain) <= 1);
      REQUIRE(worst<Tiles>(product<Tiles>(columns_of_a, plain_b, s, before), s, before, columns, plain) <= 1);
    });
  }
}

}  // namespace

TEST_CASE("a blocked product adds A·B, whichever tiles make it and however A and B lie", "[matrix_product]") {
  SECTION("float") { every_operand_is_packed<float>(); }
  SECTION("bf16") { every_operand_is_packed<bf16>(); }
  SECTION("f16") { every_operand_is_packed<f16>(); }
}

TEST_CASE("threads divide a blocked product by columns, by rows or by the summation, and change no bit",
          "[matrix_product]") {
  std::mt19937 random(13);
  // Enough rows that each thread has its own, one block or several; a summation long enough to be cut into parts, of
  // rows more than a thread takes at once, of columns more than one slice; and neither.
  const Shape s = GENERATE(Shape{2100, 70, 45}, Shape{4150, 40, 30}, Shape{2050, 40, 1030}, Shape{150, 40, 2500},
                           Shape{70, 600, 2048}, Shape{300, 200, 100});
  const auto a = normal_values(s.m * s.depth, random), b = normal_values(s.n * s.depth, random),
             before = normal_values(s.m * s.n, random);
  cpu::ThreadPool pool(2);
  const cpu::PlainB<cpu::PlainRows<float>> of_b{{b.data(), s.n}};
  for_each_kind([&](auto tiles, const char* kind) {
    using Tiles = decltype(tiles);
    CAPTURE(kind, s.m, s.n, s.depth);
    const auto check = [&](const auto& of_a, auto&& element) {
      const auto c = product<Tiles>(of_a, of_b, s, before, pool);
      REQUIRE(c == product<Tiles>(of_a, of_b, s, before));
      REQUIRE(worst<Tiles>(c, s, before, element, [&](Index k, Index j) { return at(b, k * s.n + j); }) <= 1);
    };
    check(cpu::RowsOfA{a.data(), s.depth}, [&](Index i, Index k) { return at(a, i * s.depth + k); });
    check(cpu::ColumnsOfA{a.data(), s.m}, [&](Index i, Index k) { return at(a, k * s.m + i); });
  });
}

TEST_CASE("threads change no bit where rows are many and B is too large to stay near", "[matrix_product]") {
  std::mt19937 random(17);
  // More than 1.5 MB of packed floats, several strips; rows that no tile divides; columns of which the sums would be
  // too far from a thread that has rows of its own.
  const Shape s = GENERATE(Shape{2100, 410, 1030}, Shape{2050, 2600, 150});
  const auto a = normal_values(s.m * s.depth, random), b = normal_values(s.n * s.depth, random),
             before = normal_values(s.m * s.n, random);
  cpu::ThreadPool pool(2);
  const cpu::PlainB<cpu::PlainRows<float>> of_b{{b.data(), s.n}};
  for_each_kind([&](auto tiles, const char* kind) {
    using Tiles = decltype(tiles);
    CAPTURE(kind, s.m, s.n, s.depth);
    const cpu::RowsOfA rows{a.data(), s.depth};
    const bool same = product<Tiles>(rows, of_b, s, before, pool) == product<Tiles>(rows, of_b, s, before);
    REQUIRE(same);
    const cpu::ColumnsOfA columns{a.data(), s.m};
    const bool same_columns =
        product<Tiles>(columns, of_b, s, before, pool) == product<Tiles>(columns, of_b, s, before);
    REQUIRE(same_columns);
  });
}

TEST_CASE("a blocked product of quantised weights is that of the floats they stand for", "[matrix_product]") {
  std::mt19937 random(12);
  const Shape s{50, 40, 128};
  const auto a = normal_values(s.m * s.depth, random);
  const std::vector<float> before(static_cast<std::size_t>(s.m * s.n), 0.0F);
  const auto check = [&](auto format) {
    using F = decltype(format);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(s.n * F::row_bytes(s.depth)));
    for (auto& code : codes) code = static_cast<std::uint8_t>(random());
    std::vector<bf16> scales;
    for (const float v : normal_values(s.n * F::groups(s.depth), random)) scales.push_back(static_cast<bf16>(v));
    const auto rows = cpu::weight_rows<F>(codes.data(), scales.data(), s.depth);
    std::vector<float> floats(static_cast<std::size_t>(s.n * s.depth));
    for (Index n = 0; n < s.n; ++n) {
      for (Index k = 0; k < s.depth; k += cpu::simd::width) {
        cpu::simd::store(floats.data() + n * s.depth + k, rows.row(n).load(k));
      }
    }
    for_each_kind([&](auto tiles, const char* kind) {
      CAPTURE(kind);
      const cpu::RowsOfA rows_of_a{a.data(), s.depth};
      const cpu::TransposedB<std::remove_const_t<decltype(rows)>> b{rows};
      const auto c = product<decltype(tiles)>(rows_of_a, b, s, before);
      REQUIRE(worst<decltype(tiles)>(
                  c, s, before, [&](Index i, Index k) { return at(a, i * s.depth + k); },
                  [&](Index k, Index j) { return at(floats, j * s.depth + k); }) <= 1);
    });
  };
  SECTION("int8") { check(Int8<64>{}); }
  SECTION("int4") { check(Int4<32>{}); }
}

TEST_CASE("products of elements of any size have the precision that is asked for", "[matrix_product]") {
  std::mt19937 random(13);
  const Shape s{48, 32, 1};  // one product each: nothing else hides an error
  const std::vector<float> before(static_cast<std::size_t>(s.m * s.n), 0.0F);
  for (const float size : {1e-12F, 1e-3F, 1.0F, 3e4F, 1e18F}) {
    auto a = normal_values(s.m, random), b = normal_values(s.n, random);
    for (float& v : a) v *= size;
    for (float& v : b) v *= size;
    for_each_kind([&](auto tiles, const char* kind) {
      CAPTURE(kind, size);
      const cpu::RowsOfA rows_of_a{a.data(), 1};
      const cpu::PlainB<cpu::PlainRows<float>> plain_b{{b.data(), s.n}};
      const auto c = product<decltype(tiles)>(rows_of_a, plain_b, s, before);
      for (Index i = 0; i < s.m; ++i) {
        for (Index j = 0; j < s.n; ++j) {
          const double exact = static_cast<double>(at(a, i)) * static_cast<double>(at(b, j));
          const double error = std::abs(static_cast<double>(at(c, i * s.n + j)) - exact);
          REQUIRE(error <= (0x1p-24 + left_out<decltype(tiles)>)*std::abs(exact));
        }
      }
    });
  }
}

TEST_CASE("what is not finite in a row of A stays in that row of the product, and is not lost", "[matrix_product]") {
  std::mt19937 random(14);
  const Shape s{50, 40, 70};
  const std::vector<float> before(static_cast<std::size_t>(s.m * s.n), 0.0F);
  const auto b = normal_values(s.depth * s.n, random);
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto a = normal_values(s.m * s.depth, random);
    a[static_cast<std::size_t>(17 * s.depth + 69)] = value;
    for_each_kind([&](auto tiles, const char* kind) {
      CAPTURE(kind, value);
      const cpu::RowsOfA rows_of_a{a.data(), s.depth};
      const cpu::PlainB<cpu::PlainRows<float>> plain_b{{b.data(), s.n}};
      const auto c = product<decltype(tiles)>(rows_of_a, plain_b, s, before);
      for (Index i = 0; i < s.m; ++i) {
        for (Index j = 0; j < s.n; ++j) REQUIRE(std::isfinite(at(c, i * s.n + j)) == (i != 17));
      }
    });
  }
}

#if defined(XLSTM_SIMD_AMX)
TEST_CASE("in high precision a product of matrices is off by 2^-18 of its size, in the highest by less than 2^-20",
          "[matrix_product]") {
  if (!cpu::amx::permitted()) return;
  std::mt19937 random(15);
  const Shape s{64, 96, 700};
  const auto a = normal_values(s.m * s.depth, random), b = normal_values(s.n * s.depth, random);
  const std::vector<float> before(static_cast<std::size_t>(s.m * s.n), 0.0F);
  const auto error = [&](auto tiles) {
    const auto c = product<decltype(tiles)>(cpu::RowsOfA{a.data(), s.depth},
                                            cpu::PlainB<cpu::PlainRows<float>>{{b.data(), s.n}}, s, before);
    double difference = 0, size = 0;
    for (Index i = 0; i < s.m; ++i) {
      for (Index j = 0; j < s.n; ++j) {
        double exact = 0;
        for (Index k = 0; k < s.depth; ++k)
          exact += static_cast<double>(at(a, i * s.depth + k)) * static_cast<double>(at(b, k * s.n + j));
        difference += std::pow(static_cast<double>(at(c, i * s.n + j)) - exact, 2);
        size += exact * exact;
      }
    }
    return std::sqrt(difference / size);
  };
  CHECK(error(cpu::AmxTiles<cpu::HighestPrecision>{}) < 0x1p-20);
  CHECK(error(cpu::AmxTiles<cpu::HighPrecision>{}) < 0x1p-17);
  CHECK(error(cpu::AmxTiles<cpu::HighPrecision>{}) > 0x1p-19);
}
#endif
