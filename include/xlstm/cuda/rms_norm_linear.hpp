// SPDX-License-Identifier: Apache-2.0
// RMS norm and, of its rows, products with a few rows of weights, on a device: y = rms_norm(x) (rms_norm.hpp), and
// z = y Wᵀ + b in fp32, for the pre-activations of the gates: 2·H rows of weights (xLSTM 7B, arXiv 2503.13427, §3.1).
// The products are of y as it is stored, so that all results are those of the two operations one after the other.
//
// The pre-activations are not capped: soft caps are the cell's (cuda/gates.hpp), whose backward pass needs them too.
//
// Why one kernel, for a token as for many. Products of so few outputs take as long as reading their input, and here it
// is in registers. For one token it is one launch instead of three: several blocks norm the row, and each has some of
// the outputs. For many, a block has some rows, which share the weights that it loads. By the floors of
// docs/cuda.md (8 × 8192 tokens of the 7B, H100) the memory takes 322 µs, where the norm alone takes 321 and the
// product of each gate by itself another 160; the multiplications take 144 µs of the ordinary units, so that tensor
// cores would save nothing.
#pragma once

#include <algorithm>

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/launch.hpp"
#include "xlstm/cuda/row_threads.hpp"

namespace xlstm::cuda {

struct RMSNormLinearTuning {
  static constexpr int largest_block = 256;
  static constexpr int most_rows = 4;          ///< of a block
  static constexpr int most_values = 64;       ///< of a thread: its part of these rows, in registers
  static constexpr int blocks_wanted = 132;    ///< one for each multiprocessor of an H100
  static constexpr Index narrow_outputs = 16;  ///< a product of more outputs is none of this kernel's
};

/// z (rows, outputs) = y Wᵀ + bias.
template <class M>
struct NarrowProduct {
  const M* weight;    ///< (outputs, features)
  const float* bias;  ///< (outputs), or null
  MatrixView<float> z;
};

/// Outputs: of all products together. Width: how many features a thread takes at once; rows_are_aligned<Width> of x, y,
/// all weights and the norm's bias.
template <Index Features, int Outputs, int Products, int Rows, class X, class W, class Y, class M, int Width,
          class Tuning = RMSNormLinearTuning>
struct RMSNormLinearKernel {
  MatrixView<const X, Features> x;
  const W* weight;
  const W* bias;  ///< or null
  float eps;
  MatrixView<Y, Features> y;
  float* scale;  ///< (rows), or null
  NarrowProduct<M> products[Products];
  int shares;  ///< blocks that divide the outputs of the same rows among them

  static_assert((Rows & (Rows - 1)) == 0, "xlstm: a block's rows must be a power of two");
  using Row = RowThreads<Features, Width, Tuning::largest_block>;
  static constexpr int threads = Row::threads;
  static constexpr int warps = threads / warp_size;
  static constexpr int together = 2;  ///< outputs whose sums a warp makes at once
  static constexpr int groups = (Outputs + together - 1) / together;
  static constexpr int sums = together * Rows;

  struct Squares : SharedArray<float, Rows * warps> {};
  struct Partial : SharedArray<float, groups * sums * warps> {};
  using Shared = SharedLayout<Squares, Partial>;
  using Values = Floats<Width>[Rows][Row::vectors_per_thread];

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index first_row = Index{thread.block_index().x} * Rows;
    const int share = thread.block_index().y;
    Values values;
    norm(thread, first_row, share, values);

    auto partial = thread.template shared<Partial>();
    for (int group = share; group < groups; group += shares) {
      float dots[sums] = {};
      XLSTM_UNROLL
      for (int o = 0; o < together; ++o) {
        const M* row = nullptr;
        find(group * together + o,
             [&](const NarrowProduct<M>& product, int output) { row = product.weight + Index{output} * Features; });
        if (row == nullptr) continue;
        Row::for_each_vector(thread, [&](int j, Index feature) {
          const Floats<Width> weights = load_floats<Width>(thread, row + feature);
          XLSTM_UNROLL
          for (int r = 0; r < Rows; ++r) {
            XLSTM_UNROLL
            for (int i = 0; i < Width; ++i) dots[o * Rows + r] += weights[i] * values[r][j][i];
          }
        });
      }
      const float sum = warp_sums(thread, dots);
      constexpr int lanes = warp_size / sums;
      if (thread.lane() % lanes == 0) partial[(group * sums + thread.lane() / lanes) * warps + thread.warp()] = sum;
    }
    thread.sync_block();

    for (int at = thread.index(); at < Outputs * Rows; at += threads) {
      const Index row = first_row + at % Rows;
      if (at / sums % shares != share || row >= x.rows()) continue;
      find(at / Rows, [&](const NarrowProduct<M>& product, int output) {
        float sum = product.bias != nullptr ? product.bias[output] : 0.0F;
        for (int warp = 0; warp < warps; ++warp) sum += partial[at * warps + warp];
        product.z.row(row)[output] = sum;
      });
    }
  }

 private:
  /// The thread's part of the rows, normed and rounded; the first share writes it. Rows that are not there are zeros.
  template <class Thread>
  XLSTM_DEVICE void norm(Thread& thread, Index first_row, int share, Values& values) const {
    float squares[Rows] = {};
    XLSTM_UNROLL
    for (int r = 0; r < Rows; ++r) {
      if (first_row + r >= x.rows()) continue;
      Row::for_each_vector(thread, [&](int j, Index feature) {
        values[r][j] = load_floats<Width, true>(thread, x.row(first_row + r) + feature);
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) squares[r] += values[r][j][i] * values[r][j][i];
      });
    }
    auto partial = thread.template shared<Squares>();
    const float sum = warp_sums(thread, squares);
    constexpr int lanes = warp_size / Rows;
    if (thread.lane() % lanes == 0) partial[thread.lane() / lanes * warps + thread.warp()] = sum;
    thread.sync_block();

    float factors[Rows];
    XLSTM_UNROLL
    for (int r = 0; r < Rows; ++r) {
      float all = partial[r * warps];
      for (int warp = 1; warp < warps; ++warp) all += partial[r * warps + warp];
      factors[r] = rsqrt(all / static_cast<float>(Features) + eps);
      if (scale != nullptr && share == 0 && thread.index() == r && first_row + r < x.rows()) {
        scale[first_row + r] = factors[r];
      }
    }
    Row::for_each_vector(thread, [&](int j, Index feature) {
      const Floats<Width> weights = load_floats<Width>(thread, weight + feature);
      const Floats<Width> offsets = bias != nullptr ? load_floats<Width>(thread, bias + feature) : Floats<Width>{};
      XLSTM_UNROLL
      for (int r = 0; r < Rows; ++r) {
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) {
          values[r][j][i] = to_float(to_element<Y>(values[r][j][i] * factors[r] * weights[i] + offsets[i]));
        }
        if (share == 0 && first_row + r < x.rows()) {
          store_floats(thread, y.row(first_row + r) + feature, values[r][j]);
        }
      }
    });
  }
  /// Calls f(product, output of it) for output `at` of all, if there is one.
  template <class F>
  XLSTM_DEVICE void find(int at, F&& f) const {
    XLSTM_UNROLL
    for (int p = 0; p < Products; ++p) {
      const int outputs = static_cast<int>(products[p].z.cols());
      if (at >= 0 && at < outputs) f(products[p], at);
      at -= outputs;
    }
  }
};

/// y = RMSNorm(x), and z = y Wᵀ + bias of each product; Outputs is the number of them all. scale (rows) is for the
/// backward pass, or null. bias, the norm's, may be null.
template <Index Features, int Outputs, class X, class W, class Y, class M, int Products,
          class Tuning = RMSNormLinearTuning, Launcher L>
void rms_norm_linear(L& launcher, MatrixView<const X, Features> x, const W* weight, const W* bias, double eps,
                     MatrixView<Y, Features> y, float* scale, const NarrowProduct<M> (&products)[Products]) {
  const auto launch = [&]<int Width, int Rows>() {
    using K = RMSNormLinearKernel<Features, Outputs, Products, Rows, X, W, Y, M, Width, Tuning>;
    const Index blocks = ceil_div(x.rows(), Rows);
    if (blocks == 0) return;
    const Index shares = std::clamp<Index>(ceil_div(Tuning::blocks_wanted, blocks), 1, K::groups);
    K kernel{x, weight, bias, static_cast<float>(eps), y, scale, {}, static_cast<int>(shares)};
    std::copy_n(products, Products, kernel.products);
    launcher.launch({static_cast<int>(blocks), kernel.shares}, kernel);
  };
  const auto launch_rows = [&]<int Width>() {
    using K = RMSNormLinearKernel<Features, Outputs, Products, 1, X, W, Y, M, Width, Tuning>;
    constexpr int values = K::Row::vectors_per_thread * Width;
    constexpr int fit = Tuning::most_values / values;
    constexpr int rows = fit >= Tuning::most_rows ? Tuning::most_rows : fit >= 2 ? 2 : 1;
    if (x.rows() > 1) return launch.template operator()<Width, rows>();
    launch.template operator()<Width, 1>();
  };
  constexpr int widest = 8;
  if constexpr (Features % widest == 0) {
    bool aligned = rows_are_aligned<widest>(x.data(), x.stride()) && rows_are_aligned<widest>(y.data(), y.stride()) &&
                   rows_are_aligned<widest>(weight, 0) && rows_are_aligned<widest>(bias, 0);
    for (const auto& product : products) aligned = aligned && rows_are_aligned<widest>(product.weight, Features);
    if (aligned) return launch_rows.template operator()<widest>();
  }
  launch_rows.template operator()<1>();
}

}  // namespace xlstm::cuda
