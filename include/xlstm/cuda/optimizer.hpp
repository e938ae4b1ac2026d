// SPDX-License-Identifier: Apache-2.0
// The optimizer on a device (train/step.hpp has the equations): AdamW in one pass over a range of parameters, and the
// sum of squares that clipping needs, in an order that depends on the number of values alone.
#pragma once

#include <cmath>

#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/elementwise.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm::cuda {

/// Sums of squares of `values_of_block` values each; a few of a thread's in fp32, all others in double.
template <int Width>
struct SquaresKernel {
  const float* x;
  Index count;
  double* sums;  ///< one for each block

  static constexpr int threads = 256;
  static constexpr int rounds = 8;
  static constexpr int vectors = 4;  ///< of a thread in a round, whose squares are summed in fp32
  static constexpr Index values_of_block = Index{rounds} * vectors * threads * 4;
  using Shared = SharedLayout<BlockReduceStorage<double>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index first = thread.block_index().x * values_of_block;
    const Index end = first + values_of_block < count ? first + values_of_block : count;
    double sum = 0;
    for (Index base = first + thread.index() * Width; base < end; base += vectors * threads * Width) {
      float squares = 0;
      XLSTM_UNROLL
      for (int j = 0; j < vectors; ++j) {
        const Index at = base + j * threads * Width;
        if (at >= end) continue;
        const Floats<Width> values = load_floats<Width>(thread, x + at);
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) squares += values[i] * values[i];
      }
      sum += static_cast<double>(squares);
    }
    sum = block_reduce(thread, sum, Sum{});
    if (thread.index() == 0) sums[thread.block_index().x] = sum;
  }
};

/// One block adds numbers.
struct TotalKernel {
  const double* x;
  Index count;
  double* total;

  static constexpr int threads = 1024;
  using Shared = SharedLayout<BlockReduceStorage<double>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    double sum = 0;
    for (Index i = thread.index(); i < count; i += threads) sum += x[i];
    sum = block_reduce(thread, sum, Sum{});
    if (thread.index() == 0) *total = sum;
  }
};

/// Bytes of device memory that squared_norm needs.
inline Index squared_norm_bytes(Index count) {
  return ceil_div(count, SquaresKernel<1>::values_of_block) * static_cast<Index>(sizeof(double));
}

/// *sum = Σ x²; `sum`, and `memory` of squared_norm_bytes, are in device memory.
template <Launcher L>
void squared_norm(L& launcher, const float* x, Index count, double* sum, void* memory) {
  double* sums = static_cast<double*>(memory);
  const Index blocks = ceil_div(count, SquaresKernel<1>::values_of_block);
  if (count % 4 == 0 && rows_are_aligned<4>(x, 0)) {
    launcher.launch({static_cast<int>(blocks)}, SquaresKernel<4>{x, count, sums});
  } else {
    launcher.launch({static_cast<int>(blocks)}, SquaresKernel<1>{x, count, sums});
  }
  launcher.launch({1}, TotalKernel{sums, blocks, sum});
}

/// Of parameter, gradient, m and v: the same after a step, in fp32.
struct AdamWFunction {
  static constexpr int inputs = 4, outputs = 4;

  explicit AdamWFunction(const AdamWStep& step)
      : beta1(static_cast<float>(step.beta1)),
        beta2(static_cast<float>(step.beta2)),
        keep1(static_cast<float>(1 - step.beta1)),
        keep2(static_cast<float>(1 - step.beta2)),
        scale(static_cast<float>(step.gradient_scale)),
        rate(static_cast<float>(step.learning_rate / correction(step.beta1, step.step))),
        root(static_cast<float>(1 / std::sqrt(correction(step.beta2, step.step)))),
        eps(static_cast<float>(step.eps)),
        shrink(static_cast<float>(step.learning_rate * step.weight_decay)) {}

  XLSTM_HOST_DEVICE Floats<4> operator()(const Floats<4>& x) const {
    const float g = x[1] * scale;
    const float m = beta1 * x[2] + keep1 * g;
    const float v = beta2 * x[3] + keep2 * g * g;
    return {{x[0] - (rate * m / (sqrt(v) * root + eps) + shrink * x[0]), 0, m, v}};
  }

  static double correction(double beta, Index step) { return 1 - std::pow(beta, static_cast<double>(step)); }

  float beta1, beta2;
  float keep1, keep2;  ///< 1 − β
  float scale;         ///< of the gradient
  float rate;          ///< lr / c₁
  float root;          ///< 1/√c₂
  float eps;
  float shrink;  ///< lr · decay
};

/// One step over `count` parameters.
template <Launcher L>
void adamw(L& launcher, float* parameter, float* gradient, float* first_moment, float* second_moment, Index count,
           const AdamWStep& step) {
  map_elements<float, float>(
      launcher, AdamWFunction(step),
      {{parameter, 1, count}, {gradient, 1, count}, {first_moment, 1, count}, {second_moment, 1, count}},
      {{parameter, 1, count}, {gradient, 1, count}, {first_moment, 1, count}, {second_moment, 1, count}});
}

}  // namespace xlstm::cuda
