// SPDX-License-Identifier: Apache-2.0
// RMS norm and products of its rows in one kernel: the norm is that of rms_norm.hpp to the bit, and the products are
// those of the rows as they are stored, within the rounding of fp32 sums.
#include "xlstm/cuda/rms_norm_linear.hpp"

#include <cmath>
#include <limits>

#include "catch.hpp"
#include "device.hpp"
#include "twin_matrix.hpp"
#include "xlstm/cuda/rms_norm.hpp"

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;
using xlstm::MatrixView;
using xlstm::tests::Layout;
using xlstm::tests::TwinMatrix;

namespace {

namespace cuda = xlstm::cuda;

/// Two products of First and Second outputs, the first with a bias.
template <Index D, Index First, Index Second, class T>
void check(Index rows, bool with_bias, Layout layout = {}) {
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    TwinMatrix<T> x(rows, D, seed, layout), a(First, D, seed + 1), b(Second, D, seed + 2);
    TwinMatrix<float> weight(1, D, seed + 3, {}, 0.2, 1), bias(1, D, seed + 4), a_bias(1, First, seed + 5);
    auto y = TwinMatrix<T>::filled(rows, D, 3, layout), alone = y;
    auto scale = TwinMatrix<float>::filled(1, rows, 3), scale_alone = scale;
    auto za = TwinMatrix<float>::filled(rows, First, 3, layout), zb = TwinMatrix<float>::filled(rows, Second, 3);
    const float* const norm_bias = with_bias ? bias.device().data() : nullptr;
    xlstm::tests::DeviceStream stream(seed);
    const auto run = [&](Index first, Index count, float* scales) {
      cuda::rms_norm_linear<D, static_cast<int>(First + Second), T, float, T, T>(
          stream, x.template device<D>().middle_rows(first, count), weight.device().data(), norm_bias, 1e-6,
          y.template device<D>().middle_rows(first, count), scales,
          {{a.device().data(), a_bias.device().data(), za.device().middle_rows(first, count)},
           {b.device().data(), nullptr, zb.device().middle_rows(first, count)}});
    };
    run(0, rows, scale.device().data());
    cuda::rms_norm<D, T, float, T>(stream, x.template device<D>(), weight.device().data(), norm_bias, 1e-6,
                                   alone.template device<D>(), scale_alone.device().data());

    const auto product = [&](TwinMatrix<float>& z, TwinMatrix<T>& w, Index row, Index output, double start) {
      double sum = start, sizes = std::abs(start);
      for (Index c = 0; c < D; ++c) {
        const double term = static_cast<double>(float{y.device()(row, c)}) * w.host()(output, c);
        sum += term;
        sizes += std::abs(term);
      }
      // A thread adds up to 64 terms one by one, and sums of threads meet in a tree.
      if (!(std::abs(static_cast<double>(z.device()(row, output)) - sum) <= 2e-6 * sizes)) {
        FAIL_CHECK("row " << row << ", output " << output << ": " << z.device()(row, output) << " for " << sum);
      }
    };
    for (Index r = 0; r < rows; ++r) {
      bool same = scale.device()(0, r) == scale_alone.device()(0, r);
      for (Index c = 0; c < D; ++c) {
        same = same && static_cast<float>(y.device()(r, c)) == static_cast<float>(alone.device()(r, c));
      }
      CHECK(same);
      for (Index o = 0; o < First; ++o) product(za, a, r, o, a_bias.host()(0, o));
      for (Index o = 0; o < Second; ++o) product(zb, b, r, o, 0);
    }

    if (rows < 2) continue;
    auto together = za;  // a row's results do not depend on the other rows
    run(rows - 1, 1, nullptr);
    for (Index o = 0; o < First; ++o) CHECK(za.device()(rows - 1, o) == together.device()(rows - 1, o));
  }
}

TEST_CASE("RMS norm with products of its rows, of any number of features, rows and outputs", "[cuda]") {
  check<1, 1, 1, float>(2, true);
  check<33, 3, 2, float>(5, true, {.gap = 2});
  check<64, 4, 4, float>(1, false);
  check<64, 4, 4, float>(7, false, {.gap = 8});
  check<40, 2, 1, float>(3, false, {.offset = 1});
  check<264, 5, 5, float>(0, true);
}

TEST_CASE("RMS norm with products of rows of 16 bits, as they are rounded", "[cuda]") {
  check<640, 5, 5, bf16>(6, false);
  check<100, 2, 3, f16>(5, true, {.gap = 4});
}

TEST_CASE("RMS norm with products of rows so long that a block has fewer of them", "[cuda]") {
  check<4104, 1, 2, bf16>(3, false);
}

TEST_CASE("A NaN stays in its row", "[cuda]") {
  xlstm::tests::DeviceVector<float> x(3 * 64, 1.0F), y(x.size()), weight(64, 1.0F), z(3);
  x[70] = std::numeric_limits<float>::quiet_NaN();
  xlstm::tests::DeviceStream stream;
  cuda::rms_norm_linear<64, 1, float, float, float, float>(stream, {x.data(), 3}, weight.data(), nullptr, 0.0,
                                                           {y.data(), 3}, nullptr,
                                                           {{weight.data(), nullptr, {z.data(), 3, 1}}});
  CHECK(z[0] == 64);
  CHECK(std::isnan(z[1]));
  CHECK(z[2] == 64);
}

}  // namespace
