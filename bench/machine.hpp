// SPDX-License-Identifier: Apache-2.0
// What the machine can do at all, by the best of many tries: bytes a second that threads read from memory, each several
// streams of a large array of its own; operations a second of independent multiply-adds on registers: in fp32, of bf16
// on AMX, of bytes by AVX512-VNNI. And what AMX does, in the middle of many tries, where it loads its operands.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/amx.hpp"
#include "xlstm/cpu/amx_tiles.hpp"
#include "xlstm/cpu/precision.hpp"
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

/// Products of registers on AMX, six chains of them; as above. Nothing where there is no AMX.
inline double multiply_tiles([[maybe_unused]] Index steps) {
#if defined(XLSTM_SIMD_AMX)
  if (!cpu::amx::permitted()) return 0;
  const cpu::amx::Session session;
  alignas(64) std::uint16_t ones[16 * 32];
  std::fill(std::begin(ones), std::end(ones), std::uint16_t{0x3f80});
  cpu::amx::memory_fence();
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (Index i = 0; i < steps; ++i) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  return 2.0 * 16 * 16 * 32 * 6 * static_cast<double>(steps);
#else
  return 0;
#endif
}

/// The library's innermost loops at fp32's precision, their operands in the nearest cache; operations of bf16. On a
/// core that another thread uses too, that with all registers falls to a quarter, while products of registers alone
/// stay about as fast; the library takes the one with few registers there (amx_sharing.hpp).
template <bool few_registers>
double multiply_loaded_tiles([[maybe_unused]] Index steps) {
#if defined(XLSTM_SIMD_AMX)
  using Tiles = cpu::AmxTiles<cpu::HighestPrecision>;
  if (!cpu::amx::permitted()) return 0;
  constexpr Index blocks = 4;
  alignas(64) static constexpr std::uint32_t operand[blocks * Tiles::a_step] = {};
  alignas(64) float sums[Tiles::tile_m * Tiles::tile_n];
  const cpu::amx::Session session;
  for (Index i = 0; i < steps; ++i) {
    constexpr auto product =
        few_registers ? Tiles::multiply_halves<Tiles::a_parts> : Tiles::multiply_at_once<Tiles::a_parts>;
    product(operand, operand, blocks, Tiles::tile_m, sums, Tiles::tile_n, nullptr, 0, nullptr);
  }
  return 2.0 * Tiles::tile_m * Tiles::tile_n * Tiles::block * 6 * blocks * static_cast<double>(steps);
#else
  return 0;
#endif
}

/// Products of bytes in vectors; as above. Nothing where there is no AVX512-VNNI.
inline double multiply_bytes([[maybe_unused]] Index steps) {
#if defined(XLSTM_SIMD_AVX512) && defined(__AVX512VNNI__)
  constexpr int chains = 24;
  __m512i sum[chains], a = _mm512_set1_epi8(1);
#pragma GCC unroll 32
  for (int j = 0; j < chains; ++j) sum[j] = _mm512_set1_epi32(j);
  for (Index i = 0; i < steps; ++i) {
    asm volatile("" : "+v"(a));
#pragma GCC unroll 32
    for (int j = 0; j < chains; ++j) sum[j] = _mm512_dpbusd_epi32(sum[j], a, a);
  }
#pragma GCC unroll 32
  for (int j = 1; j < chains; ++j) sum[0] = _mm512_add_epi32(sum[0], sum[j]);
  volatile int sink = _mm512_cvtsi512_si32(sum[0]);
  static_cast<void>(sink);
  return 2.0 * 64 * chains * static_cast<double>(steps);
#else
  return 0;
#endif
}

/// What f(steps) returns on all threads: every one works for as long as any, whichever takes the tasks.
template <class F>
double on_all_threads(cpu::ThreadPool& pool, Index steps, F&& f) {
  constexpr Index pieces = 16;
  const Index tasks = pieces * pool.size();
  std::vector<double> operations(static_cast<std::size_t>(tasks));
  pool.parallel_for(tasks, [&](Index task, int) { operations[static_cast<std::size_t>(task)] = f(steps); });
  double total = 0;
  for (const double n : operations) total += n;
  return total;
}
inline double multiply_add(cpu::ThreadPool& pool) {
  namespace simd = cpu::simd;
  return on_all_threads(pool, 20000, [](Index steps) {
    simd::Floats result = simd::zero();
    const double flops = multiply_add(steps, simd::broadcast(0.999F), simd::broadcast(0.001F), result);
    volatile float sink = result[0];
    static_cast<void>(sink);
    return flops;
  });
}

/// The machine's ceilings with a number of threads.
struct Machine {
  double bandwidth = 0;           ///< bytes/s
  double peak = 0;                ///< fp32 operations/s
  double bf16_peak = 0;           ///< operations/s of bf16 on AMX; 0 where there is none
  double bf16_loaded = 0;         ///< the same with operands loaded, in the middle of the tries, not the best of them
  double bf16_few_registers = 0;  ///< the same with few registers, in turns with the other
  double byte_peak = 0;           ///< operations/s of bytes by AVX512-VNNI; 0 where there is none

  explicit Machine(int threads) {
    cpu::ThreadPool pool(threads);
    const LargeArray array(Index{1} << 30);
    const auto rate = [](auto&& amount_of) {
      const auto begin = std::chrono::steady_clock::now();
      const double amount = amount_of();
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      return amount / seconds.count();
    };
    const auto best = [&](int tries, auto&& amount_of) {
      double most = 0;
      for (int i = 0; i < tries; ++i) most = std::max(most, rate(amount_of));
      return most;
    };
    const auto bytes = static_cast<double>(array.bytes());
    bandwidth = std::max({best(8, [&] { return read_once<1>(pool, array), bytes; }),
                          best(8, [&] { return read_once<2>(pool, array), bytes; }),
                          best(8, [&] { return read_once<4>(pool, array), bytes; }),
                          best(8, [&] { return read_once<8>(pool, array), bytes; })});
    peak = best(200, [&] { return multiply_add(pool); });
    bf16_peak = best(200, [&] { return on_all_threads(pool, 2000, multiply_tiles); });
    std::vector<double> at_once, few;
    constexpr int tries = 201;
    for (int i = 0; i < tries; ++i) {
      at_once.push_back(rate([&] { return on_all_threads(pool, 100, multiply_loaded_tiles<false>); }));
      few.push_back(rate([&] { return on_all_threads(pool, 100, multiply_loaded_tiles<true>); }));
    }
    const auto middle = [](std::vector<double>& values) {
      std::nth_element(values.begin(), values.begin() + tries / 2, values.end());
      return values[tries / 2];
    };
    bf16_loaded = middle(at_once);
    bf16_few_registers = middle(few);
    byte_peak = best(200, [&] { return on_all_threads(pool, 10000, multiply_bytes); });
  }
};

}  // namespace xlstm::bench
