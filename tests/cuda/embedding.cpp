// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/embedding.hpp"

#include <span>

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"
#include "xlstm/reference/backend.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::Token;
using xlstm::tests::DeviceVector;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;

namespace {

namespace cuda = xlstm::cuda;

constexpr Index vocabulary = 12;

/// Tokens that are often the same.
DeviceVector<Token> tokens(Index count, std::uint64_t seed) {
  xlstm::Random random(seed);
  DeviceVector<Token> all;
  for (Index i = 0; i < count; ++i) all.push_back(static_cast<Token>(random.below(2) == 0 ? 3 : random.below(12)));
  return all;
}
template <Index Features>
xlstm::DenseWeight<double, vocabulary, Features> matrix(double* values) {
  xlstm::DenseWeight<double, vocabulary, Features> weight;
  weight.bind(values);
  return weight;
}

template <Index Features, class W, class Y>
void check(Index rows, Layout layout = {}) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    const auto read = tokens(rows, seed);
    TwinMatrix<W> weight(vocabulary, Features, seed);
    auto y = TwinMatrix<Y>::filled(rows, Features, 3, layout);
    xlstm::tests::DeviceStream stream(seed);
    cuda::embed<Features, W, Y>(stream, read.data(), weight.device().data(), y.template device<Features>());
    xlstm::reference::Backend<double>().embed(std::span(read), matrix<Features>(weight.host().data()),
                                              y.template host<Features>());
    y.compare();
  }
}

template <Index Features, class T>
std::vector<float> check_backward(const DeviceVector<Token>& read, Layout layout = {}, std::uint64_t schedule = 0) {
  const Index rows = static_cast<Index>(read.size());
  TwinMatrix<T> dy(rows, Features, 1, layout);
  TwinMatrix<float> dweight(vocabulary, Features, 2);
  xlstm::tests::DeviceStream stream(schedule);
  cuda::embed_backward<Features, T>(stream, read.data(), dy.template device<Features>(), dweight.device().data());
  auto expected = matrix<Features>(dweight.host().data());
  xlstm::reference::Backend<double>().embed_backward(
      std::span(read), xlstm::MatrixView<const double, Features>(dy.template host<Features>()), expected);
  dweight.compare(1e-6, 1e-7 * static_cast<double>(10 + rows));
  return std::vector<float>(dweight.device().data(), dweight.device().data() + vocabulary * Features);
}

TEST_CASE("Embedding gathers rows, of any width", "[cuda]") {
  check<1, float, float>(3);
  check<40, float, float>(5);
  check<40, bf16, bf16>(5, {.gap = 8});
  check<40, f16, float>(5, {.gap = 1});
  check<2056, bf16, float>(2);
  check<16, float, float>(0);
}

TEST_CASE("Gradients of rows with one token are added, few tokens and many", "[cuda]") {
  check_backward<1, float>(tokens(3, 1));
  check_backward<40, float>(tokens(1, 1));
  check_backward<40, bf16>(tokens(30, 2), {.gap = 8});
  check_backward<33, f16>(tokens(20, 3), {.gap = 1});
  check_backward<1032, float>(tokens(9, 4));
  check_backward<8, float>(tokens(300, 5));  // more than a block looks at together
  check_backward<16, float>({});
}

TEST_CASE("A token whose last occurrence is far", "[cuda]") {
  auto read = DeviceVector<Token>(2100, 5);
  read.front() = 7;
  read.back() = 7;
  check_backward<4, float>(read);
}

TEST_CASE("Gradients of an embedding are the same bits in every schedule", "[cuda]") {
  const auto read = tokens(40, 6);
  const auto first = check_backward<24, float>(read);
  for (std::uint64_t schedule = 1; schedule < 4; ++schedule) {
    REQUIRE(check_backward<24, float>(read, {}, schedule) == first);
  }
}

}  // namespace
