// SPDX-License-Identifier: Apache-2.0
// Normal random numbers by the ziggurat method (Marsaglia, Tsang, "The Ziggurat Method for Generating Random
// Variables", 2000, in the form of Doornik 2005): 256 layers of equal area under exp(−x²/2). 99 of 100 values take one
// random word and one multiplication, so that a model of billions of weights is initialised in seconds.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "xlstm/core/random.hpp"

namespace xlstm {

/// Draws standard normal values from a Random. The values are the same on every machine up to the last bits in which
/// libraries' exp and log differ.
class NormalSampler {
 public:
  NormalSampler() {
    const auto density = [](double x) { return std::exp(-0.5 * x * x); };
    edges_[0] = area / density(base);  // the base layer's width if it were a rectangle: its tail is sampled apart
    edges_[1] = base;
    for (std::size_t i = 2; i < layers; ++i) {
      edges_[i] = std::sqrt(-2 * std::log(area / edges_[i - 1] + density(edges_[i - 1])));
    }
    edges_[layers] = 0;
    for (std::size_t i = 0; i < layers; ++i) ratios_[i] = edges_[i + 1] / edges_[i];
  }

  double operator()(Random& random) const {
    while (true) {
      const std::uint64_t word = random();
      const std::size_t layer = word & (layers - 1);
      // The upper 53 bits, which the layer's bits are not among, as a multiple of 2^-52 in [−1, 1).
      const double u = static_cast<double>(static_cast<std::int64_t>(word) >> 11) * 0x1p-52;
      const double x = u * edges_[layer];
      if (std::abs(u) < ratios_[layer]) return x;
      if (layer == 0) return u < 0 ? -tail(random) : tail(random);
      const double outer = std::exp(-0.5 * (edges_[layer] * edges_[layer] - x * x));
      const double inner = std::exp(-0.5 * (edges_[layer + 1] * edges_[layer + 1] - x * x));
      if (outer + random.uniform() * (inner - outer) < 1) return x;
    }
  }

 private:
  static constexpr std::size_t layers = 256;
  static constexpr double base = 3.6541528853610088;      // where the tail begins
  static constexpr double area = 0.00492867323397465524;  // of every layer

  // Marsaglia's tail: −log(U)/base beyond the edge, accepted by a second exponential.
  static double tail(Random& random) {
    while (true) {
      const double x = -std::log(1 - random.uniform()) / base;
      const double y = -std::log(1 - random.uniform());
      if (2 * y >= x * x) return base + x;
    }
  }

  std::array<double, layers + 1> edges_{};
  std::array<double, layers> ratios_{};
};

}  // namespace xlstm
