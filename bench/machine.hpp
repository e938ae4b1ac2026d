// SPDX-License-Identifier: Apache-2.0
// What the machine can do at all, by the best of many tries: bytes a second that threads read from memory, each several
// streams of a large array of its own; fp32 operations a second of independent multiply-adds on registers.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/thread_pool.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace xlstm::bench {

/// A large array, in big pages where the system gives them: then no time goes into looking up small ones.
class LargeArray {
 public:
  explicit LargeArray(Index bytes)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{big_page}))) {
#if defined(__linux__)
    ::madvise(data_.get(), static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
#endif
    std::memset(data_.get(), 1, static_cast<std::size_t>(bytes));
  }
  const std::byte* data() const { return data_.get(); }
  std::byte* data() { return data_.get(); }
  Index bytes() const { return bytes_; }

 private:
  static constexpr std::size_t big_page = std::size_t{1} << 21;
  struct Free {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{big_page}); }
  };
  Index bytes_;
  std::unique_ptr<std::byte[], Free> data_;
};

/// Reads `bytes` from `data`, as Streams streams that are far from each other. The bits are added up as integers, which
/// costs nothing beside memory.
template <Index Streams>
inline cpu::simd::Words read_streams(const std::byte* data, Index bytes) {
  namespace simd = cpu::simd;
  constexpr Index step = sizeof(simd::Words), line = 64, ahead = 2048;
  const Index part = bytes / Streams / line * line;
  simd::Words sum[Streams] = {};
  for (Index i = 0; i < part; i += line) {
#pragma GCC unroll 16
    for (Index s = 0; s < Streams; ++s) {
      const std::byte* const from = data + s * part + i;
      simd::prefetch(from + ahead);
#pragma GCC unroll 4
      for (Index j = 0; j < line; j += step) {
        simd::Words w;
        std::memcpy(&w, from + j, sizeof w);
        sum[s] += w;
      }
    }
  }
  for (Index s = 1; s < Streams; ++s) sum[0] += sum[s];
  return sum[0];
}

/// Reads the whole array once, in pieces of a megabyte that the threads take one after another.
template <Index Streams>
void read_once(cpu::ThreadPool& pool, const LargeArray& array) {
  constexpr Index piece = Index{1} << 20;
  std::vector<std::uint32_t> sums(static_cast<std::size_t>(array.bytes() / piece));
  pool.parallel_for(array.bytes() / piece, [&](Index p, int) {
    const cpu::simd::Words sum = read_streams<Streams>(array.data() + p * piece, piece);
    sums[static_cast<std::size_t>(p)] = sum[0];
  });
  volatile std::uint32_t sink = sums[0];
  static_cast<void>(sink);
}

/// Multiply-adds on registers; returns how many floating-point operations a call makes. Operands come in by reference,
/// so that the compiler knows neither them nor that sums are not used.
inline double multiply_add(Index steps, const cpu::simd::Floats& a, const cpu::simd::Floats& b,
                           cpu::simd::Floats& result) {
  namespace simd = cpu::simd;
  constexpr int chains = simd::registers == 32 ? 24 : 12;
  simd::Floats sum[chains];
#pragma GCC unroll 32
  for (int j = 0; j < chains; ++j) sum[j] = result + static_cast<float>(j);
  for (Index i = 0; i < steps; ++i) {
#pragma GCC unroll 32
    for (int j = 0; j < chains; ++j) sum[j] = simd::fma(sum[j], a, b);
  }
#pragma GCC unroll 32
  for (int j = 0; j < chains; ++j) result += sum[j];
  return 2.0 * simd::width * chains * static_cast<double>(steps);
}

/// The same on all threads: every one works for as long as any, whichever takes the tasks.
inline double multiply_add(cpu::ThreadPool& pool) {
  namespace simd = cpu::simd;
  constexpr Index pieces = 16, steps = 20000;
  const Index tasks = pieces * pool.size();
  std::vector<double> flops(static_cast<std::size_t>(tasks));
  pool.parallel_for(tasks, [&](Index task, int) {
    simd::Floats result = simd::zero();
    flops[static_cast<std::size_t>(task)] =
        multiply_add(steps, simd::broadcast(0.999F), simd::broadcast(0.001F), result);
    volatile float sink = result[0];
    static_cast<void>(sink);
  });
  double total = 0;
  for (const double f : flops) total += f;
  return total;
}

/// The machine's ceilings with a number of threads.
struct Machine {
  double bandwidth = 0;  ///< bytes/s
  double peak = 0;       ///< fp32 operations/s

  explicit Machine(int threads) {
    cpu::ThreadPool pool(threads);
    const LargeArray array(Index{1} << 30);
    const auto best = [](int tries, auto&& amount_of) {
      double rate = 0;
      for (int i = 0; i < tries; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        const double amount = amount_of();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        rate = std::max(rate, amount / seconds.count());
      }
      return rate;
    };
    const auto bytes = static_cast<double>(array.bytes());
    bandwidth = std::max({best(8, [&] { return read_once<1>(pool, array), bytes; }),
                          best(8, [&] { return read_once<2>(pool, array), bytes; }),
                          best(8, [&] { return read_once<4>(pool, array), bytes; }),
                          best(8, [&] { return read_once<8>(pool, array), bytes; })});
    peak = best(200, [&] { return multiply_add(pool); });
  }
};

}  // namespace xlstm::bench
