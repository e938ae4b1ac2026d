// SPDX-License-Identifier: Apache-2.0
// How a sequence is cut into chunks.
#include "xlstm/cell/chunks.hpp"

#include <cstdint>
#include <vector>

#include "catch.hpp"
#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/random.hpp"

using namespace xlstm;

namespace {

std::vector<Chunk> chunks_of(const Run& run, Index sequence, Index chunk_size) {
  const Chunks chunks(run, sequence, chunk_size);
  std::vector<Chunk> found(chunks.begin(), chunks.end());
  CHECK(chunks.count() == static_cast<Index>(found.size()));
  return found;
}

}  // namespace

TEST_CASE("a sequence without documents is cut evenly, the last chunk being what is left", "[cell][chunks]") {
  Run run;
  run.length = 10;
  CHECK(chunks_of(run, 0, 4) == std::vector<Chunk>{{0, 4, false}, {4, 4, false}, {8, 2, false}});
  CHECK(chunks_of(run, 0, 5) == std::vector<Chunk>{{0, 5, false}, {5, 5, false}});
  CHECK(chunks_of(run, 0, 10) == std::vector<Chunk>{{0, 10, false}});
  CHECK(chunks_of(run, 0, 64) == std::vector<Chunk>{{0, 10, false}});
  CHECK(chunks_of(run, 0, PTRDIFF_MAX) == std::vector<Chunk>{{0, 10, false}});
  run.length = 1;
  CHECK(chunks_of(run, 0, 1) == std::vector<Chunk>{{0, 1, false}});
}

TEST_CASE("documents are cut from their own starts", "[cell][chunks]") {
  const std::vector<std::uint8_t> starts{0, 0, 0, 1, 0, 0, 0, 0, 0, 1,  //
                                         1, 0, 0, 0, 7, 1, 1, 0, 0, 0};
  Run run;
  run.sequences = 2;
  run.length = 10;
  run.starts = starts.data();
  CHECK(chunks_of(run, 0, 4) == std::vector<Chunk>{{0, 3, false}, {3, 4, true}, {7, 2, false}, {9, 1, true}});
  CHECK(chunks_of(run, 1, 4) == std::vector<Chunk>{{0, 4, true}, {4, 1, true}, {5, 1, true}, {6, 4, true}});
  CHECK(chunks_of(run, 1, 10) == std::vector<Chunk>{{0, 4, true}, {4, 1, true}, {5, 1, true}, {6, 4, true}});
}

TEST_CASE("chunks cover a sequence without gaps, borders inside or needless cuts", "[cell][chunks]") {
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    Run run;
    run.sequences = 3;
    run.length = 1 + static_cast<Index>(random.below(60));
    std::vector<std::uint8_t> starts(static_cast<std::size_t>(run.rows()));
    for (auto& s : starts) s = random.below(8) == 0 ? 1 : 0;
    run.starts = starts.data();
    const Index size = 1 + static_cast<Index>(random.below(20));
    for (Index b = 0; b < run.sequences; ++b) {
      Index next = 0;
      for (const Chunk& chunk : Chunks(run, b, size)) {
        REQUIRE(chunk.first == next);
        REQUIRE(chunk.length >= 1);
        REQUIRE(chunk.length <= size);
        REQUIRE(chunk.fresh == run.starts_document(b, chunk.first));
        for (Index t = chunk.first + 1; t < chunk.first + chunk.length; ++t) REQUIRE_FALSE(run.starts_document(b, t));
        next += chunk.length;
        const bool cut_needed = chunk.length == size || next == run.length || run.starts_document(b, next);
        REQUIRE(cut_needed);
      }
      REQUIRE(next == run.length);
    }
  }
}

TEST_CASE("the chunk size is the run's, else the cell's; a document in parallel form, a token in recurrent form",
          "[cell][chunks]") {
  using Cell = MLSTMCell<2, 3, 4>;
  Run run;
  run.length = 300;
  CHECK(chunk_size<Cell>(run) == Cell::chunk_size);
  run.chunk_size = 16;
  CHECK(chunk_size<Cell>(run) == 16);
  run.form = Form::parallel;
  CHECK(chunk_size<Cell>(run) == 300);
  run.form = Form::recurrent;
  CHECK(chunk_size<Cell>(run) == 1);
}
