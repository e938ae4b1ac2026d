// SPDX-License-Identifier: Apache-2.0
#include "xlstm/core/view.hpp"

#include <type_traits>

#include "catch.hpp"

using xlstm::MatrixView;

TEST_CASE("rows, columns and strides") {
  float data[12];
  for (int i = 0; i < 12; ++i) data[i] = static_cast<float>(i);
  const MatrixView<float, 4> m(data, 3);
  CHECK(m(1, 2) == 6);
  CHECK(m.row(2)[3] == 11);
  CHECK(m.contiguous());
  CHECK(m.size() == 12);

  const MatrixView<float> head = m.middle_cols(2, 2);
  CHECK(head(2, 1) == 11);
  CHECK(head.cols() == 2);
  CHECK_FALSE(head.contiguous());
  CHECK(m.middle_rows(1, 2)(0, 0) == 4);
}

TEST_CASE("a view converts to one of const and to one of dynamic width, never back") {
  using Static = MatrixView<float, 4>;
  STATIC_REQUIRE(std::is_convertible_v<Static, MatrixView<const float, 4>>);
  STATIC_REQUIRE(std::is_convertible_v<Static, MatrixView<float>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<Static, MatrixView<float, 5>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<MatrixView<const float, 4>, Static>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<MatrixView<float>, Static>);
}
