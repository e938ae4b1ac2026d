// SPDX-License-Identifier: Apache-2.0
// y = x Wᵀ + b for quantised weights (core/quantization.hpp) and few rows, as decoding has: every byte of W is read
// once, 16 at a time, and becomes floats in registers. x lies in shared memory; sums are fp32. A warp has `outputs`
// rows of W, so that what it reads of x serves several of them; several matrices applied to the same x are one launch.
//
// A multiplication and an addition for each row of x and weight are what it takes beside the reading: up to about four
// rows memory is what limits it, beyond that arithmetic.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/dequantize.hpp"

namespace xlstm::cuda {

/// One of the matrices: codes and scales as core/quantization.hpp says, codes aligned to 16 bytes.
template <class Y>
struct QuantizedTerm {
  const std::uint8_t* codes = nullptr;
  const bf16* scales = nullptr;
  const float* bias = nullptr;  ///< (out), or null
  Index out = 0;
  Y* y = nullptr;  ///< (rows, out)
  Index y_stride = 0;
};

/// How many of them one launch takes.
inline constexpr std::size_t most_quantized_terms = 4;

struct QuantizedLinearTuning {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 3;
  /// Rows of W that a warp has, for so many rows of x.
  static constexpr int outputs(int rows) { return rows < 8 ? 4 : 2; }
};

/// Rows: of x, at most; those beyond x.rows() count as zeros.
template <QuantizedFormat F, class X, class Y, int Rows, class Tuning = QuantizedLinearTuning>
struct QuantizedLinearKernel {
  MatrixView<const X> x;
  QuantizedTerm<Y> terms[most_quantized_terms];
  bool aligned;  ///< whether x's rows can be read 4 elements at a time

  using Unit = CodeUnit<F>;
  static constexpr int threads = Tuning::threads;
  static constexpr int blocks_per_multiprocessor = Tuning::blocks_per_multiprocessor;
  static constexpr int outputs = Tuning::outputs(Rows);
  static constexpr int block_outputs = threads / warp_size * outputs;
  static constexpr int warp_columns = warp_size * Unit::columns;
  /// Columns of x in shared memory at a time.
  static constexpr int tile = std::max(warp_columns, 8192 / Rows);
  static_assert(tile % warp_columns == 0);
  struct Tile : SharedArray<float, Index{Rows} * tile> {};
  using Shared = SharedLayout<Tile>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    // Which matrix is this block's?
    Index block = thread.block_index().x;
    int which = 0;
    while (block >= ceil_div(terms[which].out, block_outputs)) {
      block -= ceil_div(terms[which].out, block_outputs);
      ++which;
    }
    const QuantizedTerm<Y> term = terms[which];
    const Index first_output = block * block_outputs + thread.warp() * outputs;
    const Index in = x.cols();

    float sums[outputs][Rows] = {};
    for (Index start = 0; start < in; start += tile) {
      if (start > 0) thread.sync_block();
      stage(thread, start);
      thread.sync_block();
      if (first_output >= term.out) continue;
      add_products(thread, term, first_output, start, sums);
    }
    if (first_output >= term.out) return;

    XLSTM_UNROLL
    for (int o = 0; o < outputs; ++o) {
      XLSTM_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const float sum = warp_reduce(thread, sums[o][r], Sum{});
        const Index output = first_output + o;
        if (thread.lane() != (o * Rows + r) % warp_size || output >= term.out || r >= x.rows()) continue;
        term.y[r * term.y_stride + output] = to_element<Y>(term.bias != nullptr ? sum + term.bias[output] : sum);
      }
    }
  }

 private:
  // Where lanes read 16 bytes each, they must be adjacent: in the tile, those 4 columns of the lanes' units that are
  // read at the same time follow one another.
  template <class Thread>
  XLSTM_DEVICE void stage(Thread& thread, Index start) const {
    constexpr int chunks = Unit::columns / 4;
    auto to = thread.template shared<Tile>();
    const Index columns = x.cols() - start < tile ? round_up(x.cols() - start, warp_columns) : tile;
    XLSTM_UNROLL
    for (int r = 0; r < Rows; ++r) {
      for (Index place = thread.index(); place < columns / 4; place += threads) {
        const Index lane = place % warp_size, chunk = place / warp_size % chunks;
        const Index column = start + place / (warp_size * chunks) * warp_columns + lane * Unit::columns + 4 * chunk;
        Floats<4> values;
        if (r < x.rows() && aligned && column + 4 <= x.cols()) {
          values = load_floats<4>(thread, x.row(r) + column);
        } else if (r < x.rows()) {
          XLSTM_UNROLL
          for (int i = 0; i < 4; ++i) {
            if (column + i < x.cols()) values[i] = to_float(x.row(r)[column + i]);
          }
        }
        Vector<float, 4> four;
        XLSTM_UNROLL
        for (int i = 0; i < 4; ++i) four[i] = values[i];
        thread.store(to + (r * tile + 4 * place), four);
      }
    }
  }

  template <class Thread>
  XLSTM_DEVICE void add_products(Thread& thread, const QuantizedTerm<Y>& term, Index first_output, Index start,
                                 float (&sums)[outputs][Rows]) const {
    const Index in = x.cols(), row_bytes = F::row_bytes(in), groups = F::groups(in);
    const Index end = in - start < tile ? in : start + tile;
    const auto tile_x = thread.template shared<Tile>();
    for (Index base = start; base < end; base += warp_columns) {
      const Index column = base + thread.lane() * Unit::columns;
      if (column >= end) continue;
      Unit units[outputs];
      float scales[outputs];
      XLSTM_UNROLL
      for (int o = 0; o < outputs; ++o) {
        const Index output = first_output + o < term.out ? first_output + o : term.out - 1;
        units[o] = Unit::load(thread, term.codes + output * row_bytes + column * F::bits / 8);
        scales[o] = to_float(term.scales[output * groups + column / F::group_size]);
      }
      XLSTM_UNROLL
      for (int chunk = 0; chunk < Unit::columns / 4; ++chunk) {
        Floats<4> weights[outputs];
        XLSTM_UNROLL
        for (int o = 0; o < outputs; ++o) {
          weights[o] = units[o].codes(chunk);
          XLSTM_UNROLL
          for (int i = 0; i < 4; ++i) weights[o][i] *= scales[o];
        }
        XLSTM_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const Vector<float, 4> values =
              thread.template load<4>(tile_x + (r * tile + base - start + (chunk * warp_size + thread.lane()) * 4));
          XLSTM_UNROLL
          for (int o = 0; o < outputs; ++o) {
            XLSTM_UNROLL
            for (int i = 0; i < 4; ++i) sums[o][r] += values[i] * weights[o][i];
          }
        }
      }
    }
  }
};

/// The most rows that quantized_linear takes.
inline constexpr Index quantized_linear_rows = 16;

/// y_i = x W_iᵀ + bias_i for each of up to four matrices with x.cols() columns, x.rows() ≤ quantized_linear_rows.
template <QuantizedFormat F, class X, class Y, Launcher L>
void quantized_linear(L& launcher, MatrixView<const X> x, std::span<const QuantizedTerm<Y>> terms) {
  const auto launch = [&]<int Rows>() {
    using K = QuantizedLinearKernel<F, X, Y, Rows>;
    assert(terms.size() <= most_quantized_terms);
    K kernel{x, {}, rows_are_aligned<4>(x.data(), x.stride())};
    Index blocks = 0;
    for (std::size_t i = 0; i < terms.size(); ++i) {
      kernel.terms[i] = terms[i];
      blocks += ceil_div(terms[i].out, K::block_outputs);
    }
    launcher.launch({static_cast<int>(blocks)}, kernel);
  };
  assert(x.rows() <= quantized_linear_rows);
  if (x.rows() == 0) return;
  if (x.rows() == 1) return launch.template operator()<1>();
  if (x.rows() == 2) return launch.template operator()<2>();
  if (x.rows() <= 4) return launch.template operator()<4>();
  if (x.rows() <= 8) return launch.template operator()<8>();
  launch.template operator()<16>();
}

}  // namespace xlstm::cuda
