// SPDX-License-Identifier: Apache-2.0
// RMS norm and multi-head norm on the CPU, forward and backward (nn/rms_norm.hpp and nn/multihead_norm.hpp have the
// equations). Sums over a row are in fp32 with vector accumulators; sums over rows run in row order within a block of
// rows, and then over the blocks, which depend on the shape alone, so that they are the same for any number of threads.
#pragma once

#include <cmath>

#include "xlstm/core/arena.hpp"
#include "xlstm/cpu/elementwise.hpp"

namespace xlstm::cpu {

namespace detail {

/// The gradients of a norm's weight and bias, summed over rows: blocks of rows have sums of their own.
class NormGradients {
 public:
  NormGradients(Arena& arena, Index rows, Index cols, bool bias)
      : blocks_(row_blocks(rows, cols)), cols_(cols), width_(bias ? 2 * cols : cols) {
    sums_ = arena.allocate<float>(blocks_ * width_);
  }
  /// Of the block of rows that begins with row `first`, to be cleared first.
  MutableArray weight(Index first) const { return {sums_ + block(first) * width_, cols_}; }
  MutableArray bias(Index first) const { return {sums_ + block(first) * width_ + cols_, width_ - cols_}; }
  void clear(Index first) const { MutableArray(sums_ + block(first) * width_, width_).setZero(); }

  /// dweight += Σ of all blocks; the same for dbias, unless null.
  template <class Exec>
  void add_to(Exec& exec, float* dweight, float* dbias) const {
    for_column_blocks(exec, cols_, [&](Index first, Index count) {
      for (Index b = 0; b < blocks_; ++b) {
        const float* const sums = sums_ + b * width_ + first;
        MutableArray(dweight + first, count) += ConstArray(sums, count);
        if (dbias != nullptr) MutableArray(dbias + first, count) += ConstArray(sums + cols_, count);
      }
    });
  }

 private:
  Index block(Index first) const { return first / rows_per_block(cols_); }

  Index blocks_, cols_, width_;
  float* sums_;
};

}  // namespace detail

/// y = x·scale ⊙ w (+ bias, unless null), scale_r = 1/√(mean(x_r²) + eps).
template <class Exec, Index D>
void rms_norm(Exec& exec, MatrixView<const float, D> x, const float* weight, const float* bias, double eps,
              MatrixView<float, D> y, float* scale) {
  const ConstArray w(weight, x.cols());
  for_row_blocks(exec, x.rows(), x.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) {
      const auto xr = array_row(x, r);
      const float s = 1.0F / std::sqrt(xr.square().mean() + static_cast<float>(eps));
      scale[r] = s;
      if (bias != nullptr) {
        array_row(y, r) = xr * s * w + ConstArray(bias, x.cols());
      } else {
        array_row(y, r) = xr * s * w;
      }
    }
  });
}

/// dx = s·(w dy − x s² mean(w dy x));  dweight += Σ_r dy x s,  dbias += Σ_r dy (unless null).
template <class Exec, Index D>
void rms_norm_backward(Exec& exec, Arena& arena, MatrixView<const float, D> x, const float* weight, const float* scale,
                       MatrixView<const float, D> dy, MatrixView<float, D> dx, float* dweight, float* dbias) {
  const ArenaScope scope(arena);
  const detail::NormGradients sums(arena, x.rows(), x.cols(), dbias != nullptr);
  const ConstArray w(weight, x.cols());
  for_row_blocks(exec, x.rows(), x.cols(), [&](Index first, Index count) {
    sums.clear(first);
    auto dw = sums.weight(first);
    for (Index r = first; r < first + count; ++r) {
      const auto xr = array_row(x, r), d = array_row(dy, r);
      const float s = scale[r];
      const float mean = (d * w * xr).mean();
      dw += d * xr * s;
      if (dbias != nullptr) sums.bias(first) += d;
      array_row(dx, r) = s * (d * w - xr * (s * s * mean));
    }
  });
  sums.add_to(exec, dweight, dbias);
}

namespace detail {
/// y = (x − mu)·s ⊙ w (+ bias, unless null), all of `count` features.
inline void norm_head(Index count, const float* x, float mu, float s, const float* weight, const float* bias,
                      float* y) {
  const ConstArray xh(x, count);
  const ConstArray w(weight, count);
  MutableArray yh(y, count);
  if (bias != nullptr) {
    yh = (xh - mu) * s * w + ConstArray(bias, count);
  } else {
    yh = (xh - mu) * s * w;
  }
}
/// A row of the multi-head norm; mean and scale (Heads).
template <Index Heads, Index W>
void norm_heads(const float* x, const float* weight, const float* bias, double eps, float* y, float* mean,
                float* scale) {
  constexpr Index dim = W / Heads;
  for (Index h = 0; h < Heads; ++h) {
    const ConstArray xh(x + h * dim, dim);
    const float mu = xh.mean();
    const float s = 1.0F / std::sqrt((xh - mu).square().mean() + static_cast<float>(eps));
    mean[h] = mu;
    scale[h] = s;
    norm_head(dim, x + h * dim, mu, s, weight + h * dim, bias != nullptr ? bias + h * dim : nullptr, y + h * dim);
  }
}
}  // namespace detail

/// Per head: y = (x − mean)·scale ⊙ w (+ bias, unless null); mean and scale are (rows, Heads).
template <Index Heads, class Exec, Index W>
void multihead_norm(Exec& exec, MatrixView<const float, W> x, const float* weight, const float* bias, double eps,
                    MatrixView<float, W> y, float* mean, float* scale) {
  for_row_blocks(exec, x.rows(), x.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) {
      detail::norm_heads<Heads, W>(x.row(r), weight, bias, eps, y.row(r), mean + r * Heads, scale + r * Heads);
    }
  });
}

/// y = σ(gate) ⊙ multihead_norm(x).
template <Index Heads, class Exec, Index W>
void gated_multihead_norm(Exec& exec, MatrixView<const float, W> gate, MatrixView<const float, W> x,
                          const float* weight, const float* bias, double eps, MatrixView<float, W> y, float* mean,
                          float* scale) {
  for_row_blocks(exec, x.rows(), x.cols(), [&](Index first, Index count) {
    for (Index r = first; r < first + count; ++r) {
      detail::norm_heads<Heads, W>(x.row(r), weight, bias, eps, y.row(r), mean + r * Heads, scale + r * Heads);
      simd::for_each_vector(W, [&](Index c, Index lanes) {
        const simd::Floats g = simd::load_first(gate.row(r) + c, lanes);
        simd::store_first(y.row(r) + c, simd::sigmoid(g) * simd::load_first(y.row(r) + c, lanes), lanes);
      });
    }
  });
}

namespace detail {
/// Back through a row of the multi-head norm: dx is written, dw and db (of no size where there is no bias) are added
/// to. With x̂ = (x − mean)·scale and g = dy ⊙ w:  dx = scale·(g − mean(g) − x̂ mean(g x̂)),  dw = dy x̂.
template <Index Heads, Index W>
void norm_heads_backward(const float* x, const float* weight, const float* mean, const float* scale, const float* dy,
                         float* dx, MutableArray dw, MutableArray db) {
  constexpr Index dim = W / Heads;
  if (db.size() > 0) db += ConstArray(dy, W);
  for (Index h = 0; h < Heads; ++h) {
    const ConstArray xh(x + h * dim, dim), w(weight + h * dim, dim), d(dy + h * dim, dim);
    const float mu = mean[h], s = scale[h];
    const float sum = (d * w).mean();
    const float dot = (d * w * (xh - mu)).mean() * s;
    dw.segment(h * dim, dim) += d * (xh - mu) * s;
    MutableArray(dx + h * dim, dim) = s * (d * w - sum - (xh - mu) * (s * dot));
  }
}
}  // namespace detail

/// dweight += Σ_r of each row's, dbias too (unless null).
template <Index Heads, class Exec, Index W>
void multihead_norm_backward(Exec& exec, Arena& arena, MatrixView<const float, W> x, const float* weight,
                             const float* mean, const float* scale, MatrixView<const float, W> dy,
                             MatrixView<float, W> dx, float* dweight, float* dbias) {
  const ArenaScope scope(arena);
  const detail::NormGradients sums(arena, x.rows(), x.cols(), dbias != nullptr);
  for_row_blocks(exec, x.rows(), x.cols(), [&](Index first, Index count) {
    sums.clear(first);
    for (Index r = first; r < first + count; ++r) {
      detail::norm_heads_backward<Heads, W>(x.row(r), weight, mean + r * Heads, scale + r * Heads, dy.row(r), dx.row(r),
                                            sums.weight(first), sums.bias(first));
    }
  });
  sums.add_to(exec, dweight, dbias);
}

/// Of y = σ(gate) ⊙ n with n = multihead_norm(x), which is made again from x, mean and scale: dgate = dy·n·σ(1 − σ),
/// and the norm's backward of dn = dy·σ, which is left in dy.
template <Index Heads, class Exec, Index W>
void gated_multihead_norm_backward(Exec& exec, Arena& arena, MatrixView<const float, W> gate,
                                   MatrixView<const float, W> x, const float* weight, const float* bias,
                                   const float* mean, const float* scale, MatrixView<float, W> dy,
                                   MatrixView<float, W> dgate, MatrixView<float, W> dx, float* dweight, float* dbias) {
  constexpr Index dim = W / Heads;
  const ArenaScope scope(arena);
  const detail::NormGradients sums(arena, x.rows(), x.cols(), dbias != nullptr);
  for_row_blocks(exec, x.rows(), x.cols(), [&](Index first, Index count) {
    sums.clear(first);
    for (Index r = first; r < first + count; ++r) {
      for (Index h = 0; h < Heads; ++h) {
        detail::norm_head(dim, x.row(r) + h * dim, mean[r * Heads + h], scale[r * Heads + h], weight + h * dim,
                          bias != nullptr ? bias + h * dim : nullptr, dx.row(r) + h * dim);
      }
      simd::for_each_vector(W, [&](Index c, Index lanes) {
        const simd::Floats s = simd::sigmoid(simd::load_first(gate.row(r) + c, lanes));
        const simd::Floats d = simd::load_first(dy.row(r) + c, lanes), n = simd::load_first(dx.row(r) + c, lanes);
        simd::store_first(dy.row(r) + c, d * s, lanes);
        simd::store_first(dgate.row(r) + c, d * n * s * (1.0F - s), lanes);
      });
      detail::norm_heads_backward<Heads, W>(x.row(r), weight, mean + r * Heads, scale + r * Heads, dy.row(r), dx.row(r),
                                            sums.weight(first), sums.bias(first));
    }
  });
  sums.add_to(exec, dweight, dbias);
}

}  // namespace xlstm::cpu
