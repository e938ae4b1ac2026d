// SPDX-License-Identifier: Apache-2.0
// What the tiles of AMX add to those of vectors (matrix_product.cpp tests both): two ways to make a product.
#include "xlstm/cpu/amx_tiles.hpp"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "cpu/normal_values.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/cpu/amx_sharing.hpp"
#include "xlstm/cpu/thread_pool.hpp"

#if defined(XLSTM_SIMD_AMX)

using namespace xlstm;

namespace {

/// A panel of A, one of B, and sums to begin with.
template <class Tiles, Index Parts>
struct Operands {
  Index blocks;
  std::vector<typename Tiles::Element> a, b;
  std::vector<float> begin;

  Operands(Index number, std::mt19937& random)
      : blocks(number),
        a(static_cast<std::size_t>(Tiles::a_size(Tiles::tile_m, depth()))),
        b(static_cast<std::size_t>(Tiles::b_size(depth(), Parts))),
        begin(normal_values(Tiles::tile_m * Tiles::tile_n, random)) {
    const auto left = normal_values(Tiles::tile_m * depth(), random),
               right = normal_values(Tiles::tile_n * depth(), random);
    Tiles::pack_a(cpu::RowsOfA{left.data(), depth()}, 0, Tiles::tile_m, 0, depth(), Tiles::tile_m, a.data());
    if constexpr (Parts == 1) {
      std::vector<bf16> rounded(right.size());
      std::transform(right.begin(), right.end(), rounded.begin(), [](float v) { return static_cast<bf16>(v); });
      Tiles::pack_b(cpu::PlainB<cpu::PlainRows<bf16>>{{rounded.data(), Tiles::tile_n}}, 0, depth(), 0, Tiles::tile_n,
                    b.data());
    } else {
      Tiles::pack_b(cpu::PlainB<cpu::PlainRows<float>>{{right.data(), Tiles::tile_n}}, 0, depth(), 0, Tiles::tile_n,
                    b.data());
    }
  }
  Index depth() const { return blocks * Tiles::block; }
};

template <class Tiles, Index Parts>
void both_ways_agree() {
  std::mt19937 random(1);
  const cpu::amx::Session session;
  for (const Index blocks : {0, 1, 2, 7}) {
    const Operands<Tiles, Parts> operands(blocks, random);
    for (const Index rows : {Index{1}, Index{16}, Index{17}, Tiles::tile_m}) {
      for (const bool from_zero : {false, true}) {
        CAPTURE(blocks, rows, from_zero, Parts, Tiles::a_parts);
        // A tile of a larger matrix: nothing beside it is written.
        const Index stride = Tiles::tile_n + 3, touched = rows > 16 ? 32 : 16;
        std::vector<float> at_once(static_cast<std::size_t>(Tiles::tile_m * stride), -77.0F), halves = at_once;
        const float* const begin = from_zero ? nullptr : operands.begin.data();
        Tiles::template multiply_at_once<Parts>(operands.a.data(), operands.b.data(), blocks, rows, at_once.data(),
                                                stride, begin, Tiles::tile_n);
        Tiles::template multiply_halves<Parts>(operands.a.data(), operands.b.data(), blocks, rows, halves.data(),
                                               stride, begin, Tiles::tile_n);
        REQUIRE(at_once == halves);
        for (Index i = 0; i < Tiles::tile_m; ++i) {
          for (Index j = 0; j < stride; ++j) {
            const bool written = halves[static_cast<std::size_t>(i * stride + j)] != -77.0F;
            REQUIRE(written == (i < touched && j < Tiles::tile_n));
          }
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("sums at once and one half after the other have the same bits", "[amx_tiles]") {
  if (!cpu::amx::permitted()) return;
  both_ways_agree<cpu::AmxTiles<cpu::HighestPrecision>, 3>();
  both_ways_agree<cpu::AmxTiles<cpu::HighestPrecision>, 1>();
  both_ways_agree<cpu::AmxTiles<cpu::HighPrecision>, 2>();
  both_ways_agree<cpu::AmxTiles<cpu::HighPrecision>, 1>();
}

TEST_CASE("either way goes on with what happens beside it once a term", "[amx_tiles]") {
  if (!cpu::amx::permitted()) return;
  using Tiles = cpu::AmxTiles<cpu::HighestPrecision>;
  std::mt19937 random(2);
  const cpu::amx::Session session;
  const auto rows_of_a = normal_values(Tiles::tile_m * 10 * Tiles::block, random);
  std::vector<Tiles::Element> panel(static_cast<std::size_t>(Tiles::a_size(Tiles::tile_m, 10 * Tiles::block)));
  std::vector<float> c(static_cast<std::size_t>(Tiles::tile_m * Tiles::tile_n)), sums(32 * 32);
  for (const Index blocks : {1, 2, 7}) {
    const Operands<Tiles, 3> operands(blocks, random);
    const Index terms = Tiles::terms(blocks * Tiles::block, 3);
    REQUIRE(terms == 6 * blocks);
    for (const auto& [halves, rows] : {std::pair{false, 32}, {false, 16}, {true, 32}, {true, 16}}) {
      CAPTURE(blocks, halves, rows);
      cpu::Prefetcher ahead({sums.data(), 64, 64, 64}, 64);  // a line a call
      const Tiles::Packing work(cpu::RowsOfA{rows_of_a.data(), 10 * Tiles::block}, 0, 0, 10 * Tiles::block,
                                panel.data());
      Tiles::Beside beside(ahead, work, terms);
      (halves ? Tiles::multiply_halves<3> : Tiles::multiply_at_once<3>)(operands.a.data(), operands.b.data(), blocks,
                                                                        rows, c.data(), Tiles::tile_n, nullptr, 0,
                                                                        &beside);
      REQUIRE(ahead.left() == 64 - terms);
    }
  }
}

TEST_CASE("panels packed step by step are those packed at once", "[amx_tiles]") {
  std::mt19937 random(4);
  const auto check = [&](auto tiles) {
    using Tiles = decltype(tiles);
    const Index stride = 300, m = 3, k = 5, n = 7;
    const auto matrix = normal_values(300 * stride, random);
    for (const Index depth : {Tiles::block, 7 * Tiles::block}) {
      REQUIRE(Tiles::in_steps(32, depth));
      REQUIRE_FALSE(Tiles::in_steps(31, depth));
      REQUIRE_FALSE(Tiles::in_steps(32, depth - 1));
      std::vector<typename Tiles::Element> at_once(static_cast<std::size_t>(Tiles::a_size(Tiles::tile_m, depth))),
          steps(at_once.size());
      const auto in_steps = [&](typename Tiles::Packing work) {
        REQUIRE(work.left() == depth);
        while (work.left() > 0) work.step();
      };
      const cpu::RowsOfA a{matrix.data(), stride};
      Tiles::pack_a(a, m, 32, k, depth, 32, at_once.data());
      in_steps({a, m, k, depth, steps.data()});
      REQUIRE(at_once == steps);
      const cpu::PlainB<cpu::PlainRows<float>> b{{matrix.data(), stride}};
      Tiles::pack_b(b, k, depth, n, 32, at_once.data());
      in_steps({b, k, depth, n, steps.data()});
      REQUIRE(at_once == steps);
    }
  };
  check(cpu::AmxTiles<cpu::HighestPrecision>());
  check(cpu::AmxTiles<cpu::HighPrecision>());
}

TEST_CASE("a product does not depend on looks at who uses the core", "[amx_tiles]") {
  if (!cpu::amx::permitted()) return;
  using Tiles = cpu::AmxTiles<cpu::HighestPrecision>;
  std::mt19937 random(3);
  const Operands<Tiles, 3> operands(3, random);
  const auto product = [&] {
    std::vector<float> c(static_cast<std::size_t>(Tiles::tile_m * Tiles::tile_n));
    Tiles::multiply_whole<3>(operands.a.data(), operands.b.data(), 3, Tiles::tile_m, c.data(), Tiles::tile_n,
                             operands.begin.data(), Tiles::tile_n);
    return c;
  };
  // Threads that may share a core, and look many times.
  cpu::ThreadPool pool(4);
  std::vector<std::vector<float>> first(4);
  pool.parallel_for(4, [&](Index i, int) {
    const cpu::amx::Session session;
    first[static_cast<std::size_t>(i)] = product();
  });
  std::vector<int> same(400);
  pool.parallel_for(400, [&](Index i, int) {
    const cpu::amx::Session session;
    if (i % 7 == 0) cpu::amx::core_is_shared();
    same[static_cast<std::size_t>(i)] = product() == first[0];
  });
  for (const auto& c : first) REQUIRE(c == first[0]);
  REQUIRE(std::count(same.begin(), same.end(), 1) == 400);
}

#endif
