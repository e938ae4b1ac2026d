// SPDX-License-Identifier: Apache-2.0
// All activations are rows × features with the features adjacent: a row is one token of one sequence, and head h of
// a row is its features [h·dim, (h+1)·dim). One view type with a row stride says all of that; cells never transpose.
#pragma once

#include <cassert>
#include <span>
#include <type_traits>

#include "xlstm/core/index.hpp"

namespace xlstm {

/// A feature count that only run time knows.
inline constexpr Index dynamic = -1;

/// A view of `rows() × cols()` values; row r begins at data() + r·stride(). Cols is the column count, or `dynamic`.
/// Copyable, owns nothing. A view of T converts to one of const T, and a static one to a dynamic one.
template <class T, Index Cols = dynamic>
class MatrixView {
 public:
  using value_type = std::remove_const_t<T>;
  static constexpr Index static_cols = Cols;

  constexpr MatrixView() = default;
  constexpr MatrixView(T* data, Index rows, Index cols, Index stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {
    assert(Cols == dynamic || cols == Cols);
  }
  constexpr MatrixView(T* data, Index rows, Index cols) : MatrixView(data, rows, cols, cols) {}
  constexpr MatrixView(T* data, Index rows) requires(Cols != dynamic) : MatrixView(data, rows, Cols, Cols) {}

  template <class U, Index OtherCols>
  requires(std::is_convertible_v<U (*)[], T (*)[]> &&
           (Cols == dynamic || OtherCols == Cols)) constexpr MatrixView(const MatrixView<U, OtherCols>& other)
      : MatrixView(other.data(), other.rows(), other.cols(), other.stride()) {}

  constexpr T* data() const { return data_; }
  constexpr Index rows() const { return rows_; }
  constexpr Index cols() const {
    if constexpr (Cols != dynamic) return Cols;
    return cols_;
  }
  constexpr Index stride() const { return stride_; }
  constexpr bool contiguous() const { return stride_ == cols(); }
  constexpr Index size() const { return rows_ * cols(); }

  constexpr T* row(Index r) const { return data_ + r * stride_; }
  constexpr T& operator()(Index r, Index c) const {
    assert(r >= 0 && r < rows_ && c >= 0 && c < cols());
    return data_[r * stride_ + c];
  }

  /// Rows [first, first + count).
  constexpr MatrixView middle_rows(Index first, Index count) const {
    assert(first >= 0 && count >= 0 && first + count <= rows_);
    return {data_ + first * stride_, count, cols(), stride_};
  }
  /// Columns [first, first + count): one head of an activation, for instance.
  constexpr MatrixView<T> middle_cols(Index first, Index count) const {
    assert(first >= 0 && count >= 0 && first + count <= cols());
    return {data_ + first, rows_, count, stride_};
  }

 private:
  T* data_ = nullptr;
  Index rows_ = 0;
  Index cols_ = Cols == dynamic ? 0 : Cols;
  Index stride_ = Cols == dynamic ? 0 : Cols;
};

}  // namespace xlstm
