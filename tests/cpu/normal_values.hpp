// SPDX-License-Identifier: Apache-2.0
// Weights and inputs of the tests of products.
#pragma once

#include <cstddef>
#include <random>
#include <vector>

#include "xlstm/core/index.hpp"

inline std::vector<float> normal_values(xlstm::Index count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = normal(random);
  return v;
}
inline std::vector<float> normal_values(xlstm::Index count, unsigned seed) {
  std::mt19937 random(seed);
  return normal_values(count, random);
}
