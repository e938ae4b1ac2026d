// SPDX-License-Identifier: Apache-2.0
// The loss on a device (reference/training.hpp): −log softmax(cap(z))[target] + z_loss·(log Z)², and its gradient over
// the logits. A block has a row, which it reads twice: for Z, with the maximum found on the way (Milakov, Gimelshein,
// arXiv 1805.02867), and for the gradient. Threads sum in fp32, the row in double, as do rows.
#pragma once

#include <limits>

#include "xlstm/core/view.hpp"
#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/launch.hpp"
#include "xlstm/train/step.hpp"

namespace xlstm::cuda {

/// What a row adds to the loss.
struct RowLoss {
  double nll;
  double log_z;
};

/// Width: how many logits are loaded at once.
template <class Cap, class T, int Width>
struct CrossEntropyKernel {
  MatrixView<T> logits;
  const Token* targets;
  double z_loss;
  double gradient_scale;
  RowLoss* rows;

  static constexpr int threads = 512;
  struct Row : SharedArray<double, 1> {};
  using Shared = SharedLayout<Row, BlockReduceStorage<float>, BlockReduceStorage<double>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const Index row = thread.block_index().x;
    const Token target = targets[row];
    T* z = logits.row(row);
    if (target == ignored_target) {
      if (gradient_scale != 0) fill_with_zeros(thread, z);
      if (thread.index() == 0) rows[row] = {0, 0};
      return;
    }

    // From the lowest number on, not from −∞: the weight of a logit that is −∞ is exp(−∞ − it), which is 0.
    float largest = std::numeric_limits<float>::lowest();
    float sum = 0;
    for_each_vector(thread, [&](Index first) {
      const Floats<Width> capped = load_capped(thread, z + first);
      float most = largest;
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) most = max(most, capped[i]);
      sum *= exp(largest - most);
      largest = most;
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) sum += exp(capped[i] - most);
    });
    const float most = block_reduce(thread, largest, Maximum{});
    const double total = block_reduce(thread, static_cast<double>(sum * exp(largest - most)), Sum{});
    auto shared_log_z = thread.template shared<Row>();
    if (thread.index() == 0) {
      const double of_row = static_cast<double>(most) + log(total);
      shared_log_z[0] = of_row;
      rows[row] = {of_row - static_cast<double>(Cap::apply(to_float(z[target]))), of_row};
    }
    thread.sync_block();
    if (gradient_scale == 0) return;

    const double log_z = shared_log_z[0];
    const float shift = static_cast<float>(log_z);
    const float scale = static_cast<float>(gradient_scale * (1 + 2 * z_loss * log_z));
    for_each_vector(thread, [&](Index first) {
      Floats<Width> gradient = load_capped(thread, z + first);
      XLSTM_UNROLL
      for (int i = 0; i < Width; ++i) {
        const float p = exp(gradient[i] - shift) * scale;
        const float hit = first + i == target ? static_cast<float>(gradient_scale) : 0.0F;
        gradient[i] = (p - hit) * Cap::derivative(gradient[i]);
      }
      store_floats(thread, z + first, gradient);
    });
  }

 private:
  template <class Thread, class F>
  XLSTM_DEVICE void for_each_vector(Thread& thread, F&& f) const {
    for (Index first = thread.index() * Width; first < logits.cols(); first += threads * Width) f(first);
  }
  template <class Thread>
  XLSTM_DEVICE Floats<Width> load_capped(Thread& thread, const T* from) const {
    Floats<Width> values = load_floats<Width>(thread, from);
    XLSTM_UNROLL
    for (int i = 0; i < Width; ++i) values[i] = Cap::apply(values[i]);
    return values;
  }
  template <class Thread>
  XLSTM_DEVICE void fill_with_zeros(Thread& thread, T* z) const {
    for_each_vector(thread, [&](Index first) { store_floats(thread, z + first, Floats<Width>{}); });
  }
};

/// One block sums what the rows add.
struct LossSumKernel {
  const Token* targets;
  const RowLoss* rows;
  Index count;
  LossSum* sum;

  static constexpr int threads = 1024;
  using Shared = SharedLayout<BlockReduceStorage<double>, BlockReduceStorage<int>>;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    double nll = 0;
    double squares = 0;
    int counted = 0;
    for (Index row = thread.index(); row < count; row += threads) {
      if (targets[row] == ignored_target) continue;
      const RowLoss loss = rows[row];
      nll += loss.nll;
      squares += loss.log_z * loss.log_z;
      ++counted;
    }
    nll = block_reduce(thread, nll, Sum{});
    squares = block_reduce(thread, squares, Sum{});
    counted = block_reduce(thread, counted, Sum{});
    if (thread.index() == 0) {
      sum->nll = nll;
      sum->z_loss = squares;
      sum->targets = counted;
    }
  }
};

/// Bytes of device memory that cross_entropy needs.
inline Index cross_entropy_bytes(Index rows) { return rows * static_cast<Index>(sizeof(RowLoss)); }

/// Logits (rows, vocabulary) before the soft cap in; where gradient_scale ≠ 0,
/// gradient_scale · ∂(nll + z_loss·(log Z)²)/∂logits out, and else they are left as they are. targets (rows) and `sum`,
/// which is written, are in device memory; `memory`: cross_entropy_bytes of it.
template <class Cap, class T, Launcher L>
void cross_entropy(L& launcher, MatrixView<T> logits, const Token* targets, double z_loss, double gradient_scale,
                   LossSum* sum, void* memory) {
  RowLoss* rows = static_cast<RowLoss*>(memory);
  const auto launch = [&]<int Width>() {
    launcher.launch({static_cast<int>(logits.rows())},
                    CrossEntropyKernel<Cap, T, Width>{logits, targets, z_loss, gradient_scale, rows});
  };
  constexpr int widest = vector_width<T>;
  if (logits.cols() % widest == 0 && rows_are_aligned<widest>(logits.data(), logits.stride())) {
    launch.template operator()<widest>();
  } else {
    launch.template operator()<1>();
  }
  launcher.launch({1}, LossSumKernel{targets, rows, logits.rows(), sum});
}

}  // namespace xlstm::cuda
