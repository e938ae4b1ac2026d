// SPDX-License-Identifier: Apache-2.0
// Sums over rows on a device: y_c += Σ_r x_rc in fp32, for gradients of what all rows share. Which rows meet in which
// order depends on the shape alone, and no atomics are used, so that the sum is the same bits every time: many rows
// are cut into parts, whose sums lie in memory and are summed by a second launch.
#pragma once

#include <algorithm>

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/launch.hpp"

namespace xlstm::cuda {

/// A block has some columns of some rows; warp w sums every eighth row from the w-th on, and the warps' sums are added.
template <class T, int Width>
struct ColumnSumsKernel {
  MatrixView<const T> x;
  Index rows_of_part;
  MatrixView<float> y;  ///< (parts, columns)
  bool add;             ///< to what y holds

  static constexpr int threads = 256;
  static constexpr int warps = threads / warp_size;
  static constexpr int columns = warp_size * Width;
  struct Partial : SharedArray<float, warps * columns> {};
  using Shared = SharedLayout<Partial>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int tiles = static_cast<int>((x.cols() + columns - 1) / columns);
    const int part = thread.block_index().x / tiles;
    const Index first = Index{thread.block_index().x % tiles} * columns;
    const Index mine = first + thread.lane() * Width;
    const Index end = (part + 1) * rows_of_part < x.rows() ? (part + 1) * rows_of_part : x.rows();

    Floats<Width> sums;
    if (mine < x.cols()) {
      for (Index row = part * rows_of_part + thread.warp(); row < end; row += warps) {
        const Floats<Width> values = load_floats<Width>(thread, x.row(row) + mine);
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) sums[i] += values[i];
      }
    }
    auto partial = thread.template shared<Partial>();
    XLSTM_UNROLL
    for (int i = 0; i < Width; ++i) partial[thread.warp() * columns + i * warp_size + thread.lane()] = sums[i];
    thread.sync_block();
    for (int at = thread.index(); at < columns; at += threads) {
      const Index column = first + at % warp_size * Width + at / warp_size;
      if (column >= x.cols()) continue;
      float sum = add ? y.row(part)[column] : 0.0F;
      for (int warp = 0; warp < warps; ++warp) sum += partial[warp * columns + at];
      y.row(part)[column] = sum;
    }
  }
};

struct ColumnSumsTuning {
  static constexpr Index rows_of_one_launch = 512;  ///< up to so many need no second
  static constexpr Index most_parts = 128;
};

namespace detail {
/// y (parts, columns) (+)= the sums of x's parts.
template <class T, Launcher L>
void sum_parts(L& launcher, MatrixView<const T> x, Index rows_of_part, MatrixView<float> y, bool add) {
  if (x.cols() == 0) return;
  const auto launch = [&]<int Width>() {
    using K = ColumnSumsKernel<T, Width>;
    launcher.launch({static_cast<int>(y.rows() * ceil_div(x.cols(), K::columns))}, K{x, rows_of_part, y, add});
  };
  constexpr int widest = vector_width<T>;
  if (x.cols() % widest == 0 && rows_are_aligned<widest>(x.data(), x.stride())) {
    return launch.template operator()<widest>();
  }
  launch.template operator()<1>();
}
}  // namespace detail

/// Bytes of device memory that column_sums needs.
template <class Tuning = ColumnSumsTuning>
Index column_sums_bytes(Index rows, Index columns) {
  if (rows <= Tuning::rows_of_one_launch) return 0;
  return Tuning::most_parts * columns * static_cast<Index>(sizeof(float));
}

/// y_c += Σ_r x_rc. `memory`: column_sums_bytes of device memory.
template <class T, class Tuning = ColumnSumsTuning, Launcher L>
void column_sums(L& launcher, MatrixView<const T> x, float* y, void* memory) {
  if (x.rows() == 0) return;
  const MatrixView<float> sum{y, 1, x.cols()};
  if (x.rows() <= Tuning::rows_of_one_launch) return detail::sum_parts(launcher, x, x.rows(), sum, true);
  const Index rows_of_part = ceil_div(x.rows(), Tuning::most_parts);
  const MatrixView<float> parts{static_cast<float*>(memory), ceil_div(x.rows(), rows_of_part), x.cols()};
  detail::sum_parts(launcher, x, rows_of_part, parts, false);
  detail::sum_parts(launcher, MatrixView<const float>(parts), parts.rows(), sum, true);
}

}  // namespace xlstm::cuda
