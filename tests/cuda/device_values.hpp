// SPDX-License-Identifier: Apache-2.0
// What the tests of the device's backend share: it on a device, values there, and their comparison.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "catch.hpp"
#include "device.hpp"
#include "xlstm/core/random.hpp"
#include "xlstm/cuda/backend.hpp"

namespace device_values {

using xlstm::bf16;
using xlstm::f16;
using xlstm::Index;

template <class T>
using Device = xlstm::cuda::Backend<T, xlstm::tests::DeviceRuntime>;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// One rounding to T, relative to the value.
template <class T>
constexpr double rounding = std::is_same_v<T, float>  ? 0
                            : std::is_same_v<T, bf16> ? 0x1p-8
                                                      : 0x1p-11;

/// Normal values: in T, in the device's memory, and the same in double.
template <class T>
struct Values {
  template <class B>
  Values(B& device, Index count, std::uint64_t seed, double mean = 0, double deviation = 1) {
    xlstm::Random random(seed);
    std::vector<T> host;
    for (Index i = 0; i < count; ++i) {
      host.push_back(T(static_cast<float>(mean + deviation * random.normal())));
      wide.push_back(static_cast<double>(float{host.back()}));
    }
    data = device.arena().template allocate<T>(count);
    device.queue().upload(data, host.data(), count * static_cast<Index>(sizeof(T)));
  }

  T* data;
  std::vector<double> wide;
};

template <class T, class B>
std::vector<double> downloaded(B& device, const T* data, Index count) {
  std::vector<T> host(at(count));
  device.queue().download(host.data(), data, count * static_cast<Index>(sizeof(T)));
  std::vector<double> wide;
  for (const T x : host) wide.push_back(static_cast<double>(float{x}));
  return wide;
}

/// |found − expected| ≤ relative·|expected| + absolute, for each.
inline void check_close(const std::vector<double>& found, const std::vector<double>& expected, double relative,
                        double absolute) {
  REQUIRE(found.size() == expected.size());
  Index wrong = 0;
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(found[i] - expected[i]);
    if (!(error <= relative * std::abs(expected[i]) + absolute)) ++wrong;
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  }
  INFO("the largest error is " << worst << ", allowed are " << relative << " relative and " << absolute);
  CHECK(wrong == 0);
}

}  // namespace device_values
