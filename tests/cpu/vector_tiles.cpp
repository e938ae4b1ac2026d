// SPDX-License-Identifier: Apache-2.0
// What a tile of vectors does beside its product; the product itself is tested in matrix_product.cpp.
#include "xlstm/cpu/vector_tiles.hpp"

#include <vector>

#include "catch.hpp"

using namespace xlstm;
using Tiles = cpu::VectorTiles;

TEST_CASE("a tile goes on with what happens beside it once a term, whatever its height") {
  constexpr Index most = 100;
  const std::vector<float> a(Tiles::tile_m * most), b(Tiles::tile_n * most);
  const std::vector<float> memory(2 * most * 16);  // lines of 16
  std::vector<float> c(Tiles::tile_m * Tiles::tile_n);
  for (Index height = Tiles::least_tile_m; height <= Tiles::tile_m; ++height) {
    for (const Index depth : {Index{0}, Index{1}, Tiles::term_k, Tiles::term_k + 1, most}) {
      CAPTURE(height, depth);
      const Index terms = Tiles::terms(depth, 1);
      REQUIRE(terms == ceil_div(depth, Tiles::term_k));
      cpu::Prefetcher ahead({memory.data(), 64, 64, 2 * most}, most);  // two lines a call
      Tiles::Beside beside(ahead, {}, terms);
      beside.ask_for_sums(c.data(), Tiles::tile_n, height, terms);
      Tiles::product(height, 1)(a.data(), b.data(), depth, c.data(), Tiles::tile_n, height, Tiles::tile_n, nullptr,
                                false, beside);
      CHECK(ahead.left() == 2 * (most - terms));
      CHECK(beside.sum_rows_left() == (terms == 0 ? height : 0));
    }
  }
}
