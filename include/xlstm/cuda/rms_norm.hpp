// SPDX-License-Identifier: Apache-2.0
// RMS norm on a device: y = x·scale ⊙ w (+ b), scale_r = 1/√(mean(x_r²) + ε), in fp32 whatever the elements are. A
// block has a row, which it reads once and keeps in registers.
#pragma once

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/launch.hpp"
#include "xlstm/cuda/row_threads.hpp"

namespace xlstm::cuda {

struct RMSNormTuning {
  static constexpr int largest_block = 256;
};

/// Width: how many features a thread takes at once; rows_are_aligned<Width> of x and y, weight and bias.
template <Index Features, class X, class W, class Y, int Width, class Tuning = RMSNormTuning>
struct RMSNormKernel {
  MatrixView<const X, Features> x;
  const W* weight;
  const W* bias;  ///< or null
  float eps;
  MatrixView<Y, Features> y;
  float* scale;  ///< (rows), or null

  using Row = RowThreads<Features, Width, Tuning::largest_block>;
  static constexpr int threads = Row::threads;
  using Shared = SharedLayout<BlockReduceStorage<float>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index row = thread.block_index().x;
    const X* from = x.row(row);
    Y* to = y.row(row);

    // Loops instead of Row::for_each_vector, with which nvcc takes eight registers more.
    Floats<Width> values[Row::vectors_per_thread];
    float sum = 0;
    XLSTM_UNROLL
    for (int j = 0; j < Row::vectors_per_thread; ++j) {
      const Index first = (Index{j} * threads + thread.index()) * Width;
      if (first >= Features) continue;
      values[j] = load_floats<Width>(thread, from + first);
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) sum += values[j][i] * values[j][i];
    }
    sum = block_reduce(thread, sum, Sum{});
    const float factor = rsqrt(sum / static_cast<float>(Features) + eps);
    if (scale != nullptr && thread.index() == 0) scale[row] = factor;

    XLSTM_UNROLL
    for (int j = 0; j < Row::vectors_per_thread; ++j) {
      const Index first = (Index{j} * threads + thread.index()) * Width;
      if (first >= Features) continue;
      const Floats<Width> weights = load_floats<Width>(thread, weight + first);
      const Floats<Width> offsets = bias != nullptr ? load_floats<Width>(thread, bias + first) : Floats<Width>{};
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) values[j][i] = values[j][i] * factor * weights[i] + offsets[i];
      store_floats(thread, to + first, values[j]);
    }
  }
};

/// y = RMSNorm(x); scale (rows) is for the backward pass, or null. bias may be null.
template <Index Features, class X, class W, class Y, Launcher L>
void rms_norm(L& launcher, MatrixView<const X, Features> x, const W* weight, const W* bias, double eps,
              MatrixView<Y, Features> y, float* scale) {
  const auto launch = [&]<int Width>() {
    launcher.launch({static_cast<int>(x.rows())},
                    RMSNormKernel<Features, X, W, Y, Width>{x, weight, bias, static_cast<float>(eps), y, scale});
  };
  constexpr int widest = 8;
  if constexpr (Features % widest == 0) {
    if (rows_are_aligned<widest>(x.data(), x.stride()) && rows_are_aligned<widest>(y.data(), y.stride()) &&
        rows_are_aligned<widest>(weight, 0) && rows_are_aligned<widest>(bias, 0)) {
      return launch.template operator()<widest>();
    }
  }
  launch.template operator()<1>();
}

}  // namespace xlstm::cuda
