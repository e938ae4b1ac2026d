// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cpu/embedding.hpp"

#include <vector>

#include "catch.hpp"
#include "cpu/same_numbers.hpp"
#include "xlstm/cpu/thread_pool.hpp"
#include "xlstm/reference/backend.hpp"

using namespace xlstm;

namespace {

constexpr Index vocabulary = 11;

std::vector<Token> tokens(Index rows) {
  std::vector<Token> all;
  for (Index r = 0; r < rows; ++r) all.push_back(static_cast<Token>(r * r % vocabulary));  // some often, some never
  return all;
}

template <Index D, class W>
void check_rows(Index rows, cpu::ThreadPool& exec) {
  Random random(4);
  SameNumbers<D> y(rows, random);
  std::vector<W> weight;
  for (Index i = 0; i < vocabulary * D; ++i) weight.push_back(static_cast<W>(static_cast<float>(random.normal())));
  const auto ids = tokens(rows);
  cpu::embed(exec, ids, weight.data(), y.out());
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < D; ++c) {
      const W expected = weight[static_cast<std::size_t>(ids[static_cast<std::size_t>(r)] * D + c)];
      y.exact_out()(r, c) = static_cast<double>(static_cast<float>(expected));
    }
  }
  CHECK(y.error() == 0);
}

/// 1e-6 of the largest: fp32 sums of at most 80 rows, one after another.
template <Index D>
void check_backward(Index rows, cpu::ThreadPool& exec) {
  Random random(5);
  SameNumbers<D> dy(rows, random);
  SameNumbers<D> dweight(vocabulary, random, 1, 0);  // it is added to
  auto serially = dweight;
  const auto ids = tokens(rows);
  SerialExecutor serial;
  cpu::embed_backward(exec, ids, dy.in(), dweight.data());
  cpu::embed_backward(serial, ids, dy.in(), serially.data());
  CHECK(dweight.same_bits(serially));
  reference::Backend<double>::Weight<vocabulary, D> expected;
  expected.bind(dweight.exact_data());
  reference::Backend<double>().embed_backward(ids, dy.exact_in(), expected);
  CHECK(dweight.error() <= 1e-6);
}

}  // namespace

TEST_CASE("embedding: the tokens' rows, from every storage") {
  cpu::ThreadPool threads(3);
  check_rows<1, float>(1, threads);
  check_rows<7, bf16>(13, threads);
  check_rows<300, f16>(80, threads);
}

TEST_CASE("embedding's gradient: equal tokens add up, in the same order on any number of threads") {
  cpu::ThreadPool threads(3);
  check_backward<1>(1, threads);
  check_backward<7>(13, threads);
  check_backward<600>(80, threads);
}
