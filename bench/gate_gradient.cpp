// SPDX-License-Identifier: Apache-2.0
// How exact δf̃ is in fp32, by how its sum is taken: the table of docs/gradients.md. Against plain backpropagation in
// double, the largest error over the largest value, for
//   long, float    Σ_{i≥t} (q_i·δq_i − k_i·δk_i) over the whole sequence, dots and sum in float
//   long, double   the same with both in double, of the same float δq and δk
//   by chunk       what cpu::mlstm_backward gives: no difference in which a pair (t, t) cancels, and sums of a chunk
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cpu/mlstm.hpp"
#include "xlstm/cpu/mlstm_backward.hpp"
#include "xlstm/reference/mlstm_backward.hpp"

namespace {

using namespace xlstm;
using Cell = MLSTMCell<1, 16, 32>;

/// Inputs or gradients.
template <class T>
struct Arrays {
  std::vector<T> q, k, v, igate, fgate;
  explicit Arrays(Index rows)
      : q(std::size_t(rows * Cell::qk_width)),
        k(q.size()),
        v(std::size_t(rows * Cell::v_width)),
        igate(std::size_t(rows)),
        fgate(igate.size()) {}
  template <class U = T>
  MLSTMInput<U, Cell> views() {
    const Index rows = static_cast<Index>(igate.size());
    return {{q.data(), rows}, {k.data(), rows}, {v.data(), rows}, {igate.data(), rows}, {fgate.data(), rows}};
  }
};

template <class T>
std::vector<double> long_sum(Arrays<float>& in, Arrays<float>& d) {
  std::vector<double> df(in.fgate.size());
  T sum = 0;
  for (std::size_t t = df.size(); t-- > 0;) {
    T dot = 0;
    for (std::size_t c = t * Cell::qk_dim; c < (t + 1) * Cell::qk_dim; ++c)
      dot += static_cast<T>(in.q[c]) * static_cast<T>(d.q[c]) - static_cast<T>(in.k[c]) * static_cast<T>(d.k[c]);
    sum += dot;
    const double f = Cell::GateCap::apply(static_cast<double>(in.fgate[t]));
    df[t] = static_cast<double>(sum) * sigmoid(-f) * Cell::GateCap::derivative(f);
  }
  return df;
}

template <class A>
double error(const std::vector<A>& actual, const std::vector<double>& expected) {
  double difference = 0;
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(actual[i]) - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return difference / largest;
}

void row(const char* name, Index length, double fgate_mean, double igate_mean) {
  Run run;
  run.length = length;
  run.training = true;
  Random random(7);
  Arrays<float> in(length);
  Arrays<double> exact_in(length);
  const auto fill = [&](std::vector<float>& x, std::vector<double>& y, double mean) {
    for (std::size_t i = 0; i < x.size(); ++i)
      y[i] = static_cast<double>(x[i] = static_cast<float>(mean + random.normal()));
  };
  fill(in.q, exact_in.q, 0);
  fill(in.k, exact_in.k, 0);
  fill(in.v, exact_in.v, 0);
  fill(in.igate, exact_in.igate, igate_mean);
  fill(in.fgate, exact_in.fgate, fgate_mean);
  std::vector<float> dh(in.v.size());
  std::vector<double> exact_dh(in.v.size());
  fill(dh, exact_dh, 0);

  Arrays<double> expected(length);
  reference::mlstm_backward<Cell, double>(run, exact_in.views<const double>(), {}, {exact_dh.data(), length},
                                          expected.views(), {});
  SerialExecutor serial;
  Arena arena;
  cpu::MLSTMSaved<Cell> saved;
  std::vector<float> h(in.v.size());
  Arrays<float> d(length);
  cpu::mlstm<Cell>(serial, arena, run, in.views<const float>(), {}, {h.data(), length}, saved);
  cpu::mlstm_backward<Cell>(serial, arena, run, in.views<const float>(), {h.data(), length}, saved, {dh.data(), length},
                            d.views(), {});
  std::printf("| %-16s | %5td | %8.1e | %8.1e | %8.1e |\n", name, length, error(long_sum<float>(in, d), expected.fgate),
              error(long_sum<double>(in, d), expected.fgate), error(d.fgate, expected.fgate));
}

}  // namespace

int main() {
  std::puts("| gates            | S     | long, float | long, double | by chunk |");
  std::puts("|------------------|-------|----------|----------|----------|");
  for (const Index length : {64, 512, 2048, 8192}) row("remembering, f 6", length, 6, -2);
  for (const Index length : {64, 512, 2048, 8192}) row("usual, f 3", length, 3, 0);
  for (const Index length : {64, 512, 2048, 8192}) row("forgetting, f -8", length, -8, 0);
}
