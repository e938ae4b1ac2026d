// SPDX-License-Identifier: Apache-2.0
// Whether another thread runs on the same core as this one: one of this program, where it has more of them than there
// are cores, or somebody else's, which a virtual machine does not even see. Products on AMX are made in another way
// then (amx_tiles.hpp): each load of a register needs a free one beside those in use. A thread alone on its core has
// plenty. One that is not seems to have nine in all, and with eight in use nearly every load waits until all products
// before it have finished (measured: docs/performance.md, "AMX on a shared core").
#pragma once

#include <cstdint>

#include "xlstm/cpu/amx.hpp"

namespace xlstm::cpu::amx {

#if defined(XLSTM_SIMD_AMX)

/// Measures it, in some 700 cycles: products with loads take about as long as those without where a core is this
/// thread's alone, and more than twice as long elsewhere. Changes all registers. Inside a Session.
inline bool core_is_shared() {
  alignas(64) static constexpr std::uint8_t zeros[1024] = {};
  const auto ticks = [](auto&& step) {
    _mm_lfence();  // neither begins nor ends before what comes before it
    const auto begin = __rdtsc();
    _mm_lfence();
    for (int i = 0; i < 8; ++i) step();
    _mm_lfence();
    return __rdtsc() - begin;
  };
  // All registers hold something now, which makes the difference larger.
  _tile_loadd(0, zeros, 64);
  _tile_loadd(1, zeros, 64);
  _tile_loadd(2, zeros, 64);
  _tile_loadd(3, zeros, 64);
  _tile_loadd(4, zeros, 64);
  _tile_loadd(5, zeros, 64);
  _tile_loadd(6, zeros, 64);
  _tile_loadd(7, zeros, 64);
  const auto products = ticks([] {
    _tile_dpbf16ps(0, 2, 3);
    _tile_dpbf16ps(1, 2, 4);
  });
  const auto loaded = ticks([] {
    _tile_loadd(2, zeros, 64);
    _tile_loadd(3, zeros, 64);
    _tile_dpbf16ps(0, 2, 3);
    _tile_loadd(4, zeros, 64);
    _tile_dpbf16ps(1, 2, 4);
  });
  return 2 * loaded > 3 * products;
}

/// The same for this thread and each of many products, looked at now and then. Two looks in a row decide: just after a
/// pause AMX has to wake up, and every product takes long.
inline bool core_seems_shared() {
  constexpr int products = 61, few = 5;  ///< between two looks: some 200000 cycles, or fewer where they differ
  thread_local bool shared = false, last = false;
  thread_local int left = 0;
  if (left == 0) {
    const bool now = core_is_shared();
    left = now == last ? products : few;
    if (now == last) shared = now;
    last = now;
  }
  --left;
  return shared;
}

#endif

}  // namespace xlstm::cpu::amx
