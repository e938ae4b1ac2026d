// SPDX-License-Identifier: Apache-2.0
// Random numbers that are the same on every machine and compiler: the standard library fixes its engines
// but not its distributions, so these are our own. xoshiro256** (Blackman, Vigna 2018), seeded by splitmix64.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace xlstm {

/// One step of splitmix64: turns any seed, however poor, into a well-mixed word and moves the seed on.
constexpr std::uint64_t splitmix64(std::uint64_t& seed) {
  std::uint64_t z = (seed += 0x9e3779b97f4a7c15U);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

/// xoshiro256**. Its state is four words and can be saved and restored.
class Random {
 public:
  using State = std::array<std::uint64_t, 4>;
  using result_type = std::uint64_t;

  explicit constexpr Random(std::uint64_t seed = 0) {
    for (auto& word : state_) word = splitmix64(seed);
  }
  explicit constexpr Random(const State& state) : state_(state) {}

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~std::uint64_t{0}; }

  constexpr std::uint64_t operator()() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const std::uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  /// Uniform in [0, 1), a multiple of 2^-53.
  constexpr double uniform() { return static_cast<double>((*this)() >> 11) * 0x1p-53; }

  /// Uniform in {0, …, n−1}, without bias; n > 0.
  constexpr std::uint64_t below(std::uint64_t n) {
    const std::uint64_t limit = max() - max() % n;
    std::uint64_t x = (*this)();
    while (x >= limit) x = (*this)();
    return x % n;
  }

  /// Standard normal (Box–Muller; one value of the pair is used, so that the state stays four words).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  constexpr const State& state() const { return state_; }

 private:
  State state_{};
};

}  // namespace xlstm
