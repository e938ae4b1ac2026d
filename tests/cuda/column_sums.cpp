// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/column_sums.hpp"

#include <cstdint>

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::MatrixView;
using xlstm::tests::DeviceVector;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;

namespace {

namespace cuda = xlstm::cuda;

/// Parts of few rows, so that small matrices have several.
struct SmallParts : cuda::ColumnSumsTuning {
  static constexpr Index rows_of_one_launch = 10;
  static constexpr Index most_parts = 4;
};

template <class T, class Tuning = SmallParts>
std::vector<float> sums(Index rows, Index columns, Layout layout, std::uint64_t seed) {
  TwinMatrix<T> x(rows, columns, 5, layout);
  auto y = TwinMatrix<float>(1, columns, 6);
  DeviceVector<float> memory(static_cast<std::size_t>(cuda::column_sums_bytes<Tuning>(rows, columns)) / sizeof(float),
                             static_cast<float>(xlstm::tests::not_a_number));
  xlstm::tests::DeviceStream stream(seed);
  cuda::column_sums<T, Tuning>(stream, x.device(), y.device().data(), memory.data());
  for (Index r = 0; r < rows; ++r) {
    for (Index c = 0; c < columns; ++c) y.host()(0, c) += x.host()(r, c);
  }
  y.compare(1e-6, 1e-6 * static_cast<double>(1 + rows));
  return std::vector<float>(y.device().data(), y.device().data() + columns);
}

TEST_CASE("Sums of columns are added to what is there, whatever the shape", "[cuda]") {
  for (const Index rows : {0, 1, 9, 10, 11, 41, 83}) {
    for (const Index columns : {1, 8, 31, 130, 256, 300}) {
      sums<float>(rows, columns, {}, 1);
      sums<bf16>(rows, columns, {.gap = 8}, 2);
      sums<f16>(rows, columns, {.gap = 3, .offset = 1}, 3);
    }
  }
}

TEST_CASE("Sums of columns are the same bits in every schedule", "[cuda]") {
  const auto first = sums<float>(57, 40, {}, 0);
  for (std::uint64_t seed = 1; seed < 4; ++seed) REQUIRE(sums<float>(57, 40, {}, seed) == first);
}

TEST_CASE("Sums of columns as they are tuned", "[cuda]") { sums<bf16, cuda::ColumnSumsTuning>(700, 64, {}, 1); }

}  // namespace
