// SPDX-License-Identifier: Apache-2.0
// Backward of the norms on a device. With x̂ = (x − mean)·scale and g = dy ⊙ w, of a head of the multi-head norm
//     dx = scale·(g − mean(g) − x̂ mean(g x̂)),   dw += Σ_r dy x̂,   db += Σ_r dy
// and of RMS norm, which is one head without its mean, the same without mean(g). With a gate behind the norm,
// y = σ(gate) ⊙ n, n = x̂ ⊙ w + b is made again:
//     dgate = dy n σ(1 − σ),   and dn = dy σ is what the norm sees as its dy.
// Arithmetic is in fp32.
//
// The rows are cut into parts. Whoever has a head walks through the rows of a part, writes dx, and keeps the part's
// sums of dw and db in registers; these are summed by column_sums.hpp, in an order that the shape alone decides.
#pragma once

#include "xlstm/cuda/column_sums.hpp"
#include "xlstm/cuda/head_threads.hpp"

namespace xlstm::cuda {

struct NormBackwardTuning {
  static constexpr Index most_parts = 264;  ///< two blocks for each multiprocessor of an H100
};

/// What is differentiated: a norm without its mean, one with it, or one with it and a gate behind it.
enum class NormKind { rms, centred, gated };

/// Width: how many features a thread takes at once; rows_are_aligned<Width> of all matrices, weight and bias.
template <Index Heads, Index Features, NormKind Kind, bool Biased, class T, class W, int Width>
struct NormBackwardKernel {
  MatrixView<const T, Features> x;
  const W* weight;
  const W* bias;                       ///< or null; if gated
  const float* mean;                   ///< (rows, Heads), if centred
  const float* scale;                  ///< (rows, Heads)
  MatrixView<const T, Features> gate;  ///< if gated
  MatrixView<const T, Features> dy;
  MatrixView<T, Features> dgate;  ///< if gated
  MatrixView<T, Features> dx;
  Index rows_of_part;
  MatrixView<float> weight_sums;  ///< (parts, Features)
  MatrixView<float> bias_sums;    ///< likewise, if Biased

  static constexpr bool centred = Kind != NormKind::rms;
  static constexpr bool gated = Kind == NormKind::gated;
  static constexpr Index dim = Features / Heads;
  using Lanes = HeadThreads<dim, Width>;
  static constexpr int threads = Lanes::threads;
  /// Two blocks where that spills no registers: a gate takes some, sums of a bias and wide loads as many again.
  static constexpr int blocks_per_multiprocessor = gated && (Biased || sizeof(T) > 2) ? 1 : 2;
  static constexpr int vectors = Lanes::vectors_per_thread;
  using Shared = SharedLayout<BlockReduceStorage<float>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index at = Lanes::head(thread);
    const Index part = at / Heads;
    const Index head = at % Heads;
    const Index first = head * dim;
    if (part >= weight_sums.rows()) return;
    const Index end = (part + 1) * rows_of_part < x.rows() ? (part + 1) * rows_of_part : x.rows();

    Floats<Width> dweight[vectors];
    Floats<Width> dbias[Biased ? vectors : 1];
    for (Index row = part * rows_of_part; row < end; ++row) {
      const float s = scale[row * Heads + head];
      const float centre = centred ? mean[row * Heads + head] : 0.0F;
      Floats<Width> normed[vectors];
      Floats<Width> g[vectors];
      float sum = 0;
      float dot = 0;
      Lanes::for_each_vector(thread, [&](int j, Index feature) {
        normed[j] = load_floats<Width>(thread, x.row(row) + first + feature);
        g[j] = load_floats<Width>(thread, dy.row(row) + first + feature);
        const Floats<Width> weights = load_floats<Width>(thread, weight + first + feature);
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) normed[j][i] = (normed[j][i] - centre) * s;
        if constexpr (gated) through_gate(thread, row, first + feature, normed[j], weights, g[j]);
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) {
          dweight[j][i] += g[j][i] * normed[j][i];
          if constexpr (Biased) dbias[j][i] += g[j][i];
          g[j][i] *= weights[i];
          sum += g[j][i];
          dot += g[j][i] * normed[j][i];
        }
      });
      const float mean_dot = Lanes::sum(thread, dot) / static_cast<float>(dim);
      const float mean_g = centred ? Lanes::sum(thread, sum) / static_cast<float>(dim) : 0.0F;
      Lanes::for_each_vector(thread, [&](int j, Index feature) {
        XLSTM_UNROLL
        for (int i = 0; i < Width; ++i) g[j][i] = s * (g[j][i] - mean_g - normed[j][i] * mean_dot);
        store_floats(thread, dx.row(row) + first + feature, g[j]);
      });
    }
    Lanes::for_each_vector(thread, [&](int j, Index feature) {
      store_floats(thread, weight_sums.row(part) + first + feature, dweight[j]);
      if constexpr (Biased) store_floats(thread, bias_sums.row(part) + first + feature, dbias[j]);
    });
  }

 private:
  /// Writes dgate; dy becomes dn.
  template <class Thread>
  XLSTM_DEVICE void through_gate(Thread& thread, Index row, Index feature, const Floats<Width>& normed,
                                 const Floats<Width>& weights, Floats<Width>& d) const {
    const Floats<Width> gates = load_floats<Width>(thread, gate.row(row) + feature);
    const Floats<Width> offsets = bias != nullptr ? load_floats<Width>(thread, bias + feature) : Floats<Width>{};
    Floats<Width> gradients;
    XLSTM_UNROLL
    for (int i = 0; i < Width; ++i) {
      const float open = sigmoid(gates[i]);
      gradients[i] = d[i] * (normed[i] * weights[i] + offsets[i]) * open * (1.0F - open);
      d[i] *= open;
    }
    store_floats(thread, dgate.row(row) + feature, gradients);
  }
};

/// Bytes of device memory that the backward pass of a norm of Features features in all needs.
template <class Tuning = NormBackwardTuning>
Index norm_backward_bytes(Index features, bool with_bias) {
  return Tuning::most_parts * features * (with_bias ? 2 : 1) * static_cast<Index>(sizeof(float));
}

namespace detail {
/// `kernel` without its parts and sums.
template <Index Heads, Index Features, class Tuning, NormKind Kind, class T, class W, Launcher L>
void norm_backward(L& launcher, const NormBackwardKernel<Heads, Features, Kind, true, T, W, 1>& of, float* dweight,
                   float* dbias, void* memory) {
  const auto& x = of.x;
  if (x.rows() == 0) return;
  const Index rows_of_part = ceil_div(x.rows(), Tuning::most_parts);
  const Index parts = ceil_div(x.rows(), rows_of_part);
  float* sums = static_cast<float*>(memory);
  const MatrixView<float> weight_sums{sums, parts, Features};
  const MatrixView<float> bias_sums{sums + parts * Features, dbias != nullptr ? parts : 0, Features};
  const auto launch_kernel = [&]<int Width, bool Biased>() {
    using K = NormBackwardKernel<Heads, Features, Kind, Biased, T, W, Width>;
    launcher.launch({static_cast<int>(ceil_div(parts * Heads, K::Lanes::heads))},
                    K{x, of.weight, of.bias, of.mean, of.scale, of.gate, of.dy, of.dgate, of.dx, rows_of_part,
                      weight_sums, bias_sums});
  };
  const auto launch = [&]<int Width>() {
    if (dbias != nullptr) return launch_kernel.template operator()<Width, true>();
    launch_kernel.template operator()<Width, false>();
  };
  constexpr int widest = 8;
  bool launched = false;
  if constexpr (Features / Heads % widest == 0) {
    const auto aligned = [](const auto& rows) { return rows_are_aligned<widest>(rows.data(), rows.stride()); };
    if (aligned(x) && aligned(of.gate) && aligned(of.dy) && aligned(of.dgate) && aligned(of.dx) &&
        rows_are_aligned<widest>(of.weight, 0) && rows_are_aligned<widest>(of.bias, 0)) {
      launch.template operator()<widest>();
      launched = true;
    }
  }
  if (!launched) launch.template operator()<1>();
  sum_parts(launcher, MatrixView<const float>(weight_sums), parts, {dweight, 1, Features}, true);
  if (dbias != nullptr) sum_parts(launcher, MatrixView<const float>(bias_sums), parts, {dbias, 1, Features}, true);
}
}  // namespace detail

/// Writes dx and adds to dweight, and to dbias unless it is null. scale (rows) is that of the forward pass. dx may be
/// dy itself. `memory`: norm_backward_bytes of device memory.
template <Index Features, class T, class W, class Tuning = NormBackwardTuning, Launcher L>
void rms_norm_backward(L& launcher, MatrixView<const T, Features> x, const W* weight, const float* scale,
                       MatrixView<const T, Features> dy, MatrixView<T, Features> dx, float* dweight, float* dbias,
                       void* memory) {
  detail::norm_backward<1, Features, Tuning, NormKind::rms, T, W>(
      launcher, {x, weight, nullptr, nullptr, scale, {}, dy, {}, dx, 0, {}, {}}, dweight, dbias, memory);
}

/// Likewise; mean and scale (rows, Heads) are those of the forward pass.
template <Index Heads, Index Features, class T, class W, class Tuning = NormBackwardTuning, Launcher L>
void multihead_norm_backward(L& launcher, MatrixView<const T, Features> x, const W* weight, const float* mean,
                             const float* scale, MatrixView<const T, Features> dy, MatrixView<T, Features> dx,
                             float* dweight, float* dbias, void* memory) {
  detail::norm_backward<Heads, Features, Tuning, NormKind::centred, T, W>(
      launcher, {x, weight, nullptr, mean, scale, {}, dy, {}, dx, 0, {}, {}}, dweight, dbias, memory);
}

/// Of y = σ(gate) ⊙ norm(x), with a bias or null: writes dgate too. dgate may be gate itself.
template <Index Heads, Index Features, class T, class W, class Tuning = NormBackwardTuning, Launcher L>
void gated_multihead_norm_backward(L& launcher, MatrixView<const T, Features> gate, MatrixView<const T, Features> x,
                                   const W* weight, const W* bias, const float* mean, const float* scale,
                                   MatrixView<const T, Features> dy, MatrixView<T, Features> dgate,
                                   MatrixView<T, Features> dx, float* dweight, float* dbias, void* memory) {
  detail::norm_backward<Heads, Features, Tuning, NormKind::gated, T, W>(
      launcher, {x, weight, bias, mean, scale, gate, dy, dgate, dx, 0, {}, {}}, dweight, dbias, memory);
}

}  // namespace xlstm::cuda
