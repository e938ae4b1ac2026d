// SPDX-License-Identifier: Apache-2.0
// Multi-head norm on a device (nn/multihead_norm.hpp): per head y = (x − mean)·scale ⊙ w (+ b),
// scale = 1/√(mean((x − mean)²) + ε), in fp32 whatever the elements are. A head's features are read once and kept in
// registers; with a gate behind the norm, y = σ(gate) ⊙ norm(x), what is between them is never in memory: the backward
// pass (norm_backward.hpp) makes it again.
#pragma once

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/head_threads.hpp"
#include "xlstm/cuda/launch.hpp"

namespace xlstm::cuda {

/// Width: how many features a thread takes at once; rows_are_aligned<Width> of x, gate and y, weight and bias.
template <Index Heads, Index Features, bool Gated, class X, class W, class Y, int Width>
struct MultiHeadNormKernel {
  MatrixView<const X, Features> x;
  const W* weight;
  const W* bias;  ///< or null
  float eps;
  MatrixView<const X, Features> gate;  ///< if Gated
  MatrixView<Y, Features> y;
  float* mean;   ///< (rows, Heads), or null
  float* scale;  ///< (rows, Heads), or null

  static constexpr Index dim = Features / Heads;
  using Lanes = HeadThreads<dim, Width>;
  static constexpr int threads = Lanes::threads;
  using Shared = SharedLayout<BlockReduceStorage<float>>;

  /// Blocks of a launch.
  static Index blocks(Index rows) { return ceil_div(rows * Heads, Lanes::heads); }

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index at = Lanes::head(thread);
    const Index row = at / Heads;
    const Index first = at % Heads * dim;
    if (row >= x.rows()) return;
    const X* from = x.row(row) + first;
    Y* to = y.row(row) + first;

    Floats<Width> values[Lanes::vectors_per_thread];
    float sum = 0;
    Lanes::for_each_vector(thread, [&](int j, Index feature) {
      values[j] = load_floats<Width>(thread, from + feature);
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) sum += values[j][i];
    });
    const float centre = Lanes::sum(thread, sum) / static_cast<float>(dim);
    float squares = 0;
    Lanes::for_each_vector(thread, [&](int j, Index) {
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) {
        values[j][i] -= centre;
        squares += values[j][i] * values[j][i];
      }
    });
    const float factor = rsqrt(Lanes::sum(thread, squares) / static_cast<float>(dim) + eps);
    if (Lanes::is_first(thread)) {
      if (mean != nullptr) mean[at] = centre;
      if (scale != nullptr) scale[at] = factor;
    }
    Lanes::for_each_vector(thread, [&](int j, Index feature) {
      const Floats<Width> weights = load_floats<Width>(thread, weight + first + feature);
      const Floats<Width> offsets =
          bias != nullptr ? load_floats<Width>(thread, bias + first + feature) : Floats<Width>{};
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) values[j][i] = values[j][i] * factor * weights[i] + offsets[i];
      if constexpr (Gated) {
        const Floats<Width> gates = load_floats<Width>(thread, gate.row(row) + first + feature);
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) values[j][i] *= sigmoid(gates[i]);
      }
      store_floats(thread, to + feature, values[j]);
    });
  }
};

namespace detail {
template <Index Heads, Index Features, bool Gated, class X, class W, class Y, Launcher L>
void multihead_norm(L& launcher, MatrixView<const X, Features> x, const W* weight, const W* bias, double eps,
                    MatrixView<const X, Features> gate, MatrixView<Y, Features> y, float* mean, float* scale) {
  static_assert(Features % Heads == 0, "xlstm: a multi-head norm's heads have equal numbers of features");
  const auto launch = [&]<int Width>() {
    using K = MultiHeadNormKernel<Heads, Features, Gated, X, W, Y, Width>;
    launcher.launch({static_cast<int>(K::blocks(x.rows()))},
                    K{x, weight, bias, static_cast<float>(eps), gate, y, mean, scale});
  };
  constexpr int widest = 8;
  if constexpr (Features / Heads % widest == 0) {
    if (rows_are_aligned<widest>(x.data(), x.stride()) && rows_are_aligned<widest>(y.data(), y.stride()) &&
        rows_are_aligned<widest>(gate.data(), gate.stride()) && rows_are_aligned<widest>(weight, 0) &&
        rows_are_aligned<widest>(bias, 0)) {
      return launch.template operator()<widest>();
    }
  }
  launch.template operator()<1>();
}
}  // namespace detail

/// y = norm(x), each of the Heads heads by itself; mean and scale (rows, Heads) are for the backward pass, or null.
/// bias may be null.
template <Index Heads, Index Features, class X, class W, class Y, Launcher L>
void multihead_norm(L& launcher, MatrixView<const X, Features> x, const W* weight, const W* bias, double eps,
                    MatrixView<Y, Features> y, float* mean, float* scale) {
  detail::multihead_norm<Heads, Features, false>(launcher, x, weight, bias, eps, {}, y, mean, scale);
}

/// y = σ(gate) ⊙ norm(x), likewise.
template <Index Heads, Index Features, class X, class W, class Y, Launcher L>
void gated_multihead_norm(L& launcher, MatrixView<const X, Features> gate, MatrixView<const X, Features> x,
                          const W* weight, const W* bias, double eps, MatrixView<Y, Features> y, float* mean,
                          float* scale) {
  detail::multihead_norm<Heads, Features, true>(launcher, x, weight, bias, eps, gate, y, mean, scale);
}

}  // namespace xlstm::cuda
