// SPDX-License-Identifier: Apache-2.0
// y = x Wᵀ + bias for several rows of x and bf16 weights on AMX: 16 rows of weights are loaded into a register as they
// lie in memory, so that they are read once, at memory's rate, for up to 32 rows of x. x comes as its bf16 parts
// (amx_tiles.hpp): three of them give fp32's precision; one is x rounded to bf16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/element.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/amx.hpp"
#include "xlstm/cpu/simd.hpp"
#include "xlstm/cpu/storage.hpp"

namespace xlstm::cpu {

/// The measured choices: from how many rows of x on AMX is faster than vectors, also where they are rounded; and the
/// bytes of weights that a thread takes at once at most.
struct AmxRowTuning {
  static constexpr Index least_rows = 5;
  static constexpr Index least_rounded_rows = 4;
  static constexpr Index piece_bytes = Index{1} << 21;
};

#if defined(XLSTM_SIMD_AMX)

/// Up to 32 rows of x as the right-hand sides of the products: for every 32 columns the registers one after another, in
/// each 16 pairs of columns of 16 rows' parts. Number p · rows + r of these is part p of row r; zeros beyond them.
class AmxRowPanels {
 public:
  static constexpr Index block = 32;  ///< columns of one instruction
  static constexpr Index most_rows = 32;

  AmxRowPanels() = default;
  /// Room for `parts` parts of each: 3, or 1 for x rounded. Memory is the arena's.
  AmxRowPanels(Arena& arena, MatrixView<const float> x, Index parts)
      : x_(x), parts_(parts), registers_(ceil_div(parts * x.rows(), 16)) {
    data_ = arena.allocate<std::uint32_t>(ceil_div(x.cols(), block) * registers_ * register_size);
  }
  /// Packs x, unless that is done.
  void fill() {
    if (std::exchange(filled_, true)) return;
    for (Index first = 0; first < x_.cols(); first += block) parts_ == 1 ? pack<1>(first) : pack<3>(first);
  }

  Index rows() const { return x_.rows(); }
  Index cols() const { return x_.cols(); }
  Index parts() const { return parts_; }
  Index registers() const { return registers_; }
  const std::uint32_t* at(Index block_number) const { return data_ + block_number * registers_ * register_size; }

  static constexpr Index register_size = 16 * 16;

 private:
  template <Index Parts>
  void pack(Index first) {
    simd::Floats column[round_up(Parts * most_rows, 16)];
    const Index rows = x_.rows(), left = x_.cols() - first;
    for (Index r = 0; r < rows; ++r) {
      const float* const from = x_.row(r) + first;
      const auto load = [&](Index c) {
        return left >= c + simd::width ? simd::load(from + c)
               : left > c              ? simd::load_partial(from + c, left - c)
                                       : simd::zero();
      };
      simd::Floats even, odd;
      simd::split_pairs(load(0), load(simd::width), even, odd);
      if constexpr (Parts == 1) {
        even = simd::round_to_bf16(even);
        odd = simd::round_to_bf16(odd);
      }
#pragma GCC unroll 3
      for (Index p = 0; p < Parts; ++p) {
        const simd::Words low = simd::as_words(even), high = simd::as_words(odd) & 0xffff0000U;
        column[p * rows + r] = simd::as_floats(low >> 16 | high);
        even -= simd::as_floats(low & 0xffff0000U);
        odd -= simd::as_floats(high);
      }
    }
    std::fill(column + Parts * rows, column + 16 * registers_, simd::zero());
    std::uint32_t* to = data_ + first / block * registers_ * register_size;
    for (Index t = 0; t < registers_; ++t, to += register_size) {
      simd::transpose(column + 16 * t);
      std::memcpy(to, column + 16 * t, register_size * sizeof *to);
    }
  }

  MatrixView<const float> x_;
  Index parts_ = 0, registers_ = 0;
  std::uint32_t* data_ = nullptr;
  bool filled_ = false;
};

namespace detail {

/// One block of the sums in registers 0 to Registers − 1: 16 rows of W, `stride` bytes apart, times x.
template <Index Registers>
inline void amx_row_step(const bf16* w, Index stride, const std::uint32_t* x) {
  constexpr Index next = AmxRowPanels::register_size;
  _tile_loadd(6, w, stride);
  _tile_loadd(7, x, 64);
  _tile_dpbf16ps(0, 6, 7);
  if constexpr (Registers > 1) {
    _tile_loadd(7, x + next, 64);
    _tile_dpbf16ps(1, 6, 7);
  }
  if constexpr (Registers > 2) {
    _tile_loadd(7, x + 2 * next, 64);
    _tile_dpbf16ps(2, 6, 7);
  }
  if constexpr (Registers > 3) {
    _tile_loadd(7, x + 3 * next, 64);
    _tile_dpbf16ps(3, 6, 7);
  }
  if constexpr (Registers > 4) {
    _tile_loadd(7, x + 4 * next, 64);
    _tile_dpbf16ps(4, 6, 7);
  }
  if constexpr (Registers > 5) {
    _tile_loadd(7, x + 5 * next, 64);
    _tile_dpbf16ps(5, 6, 7);
  }
}

/// The same for 32 rows of W and one or two registers of x, which are loaded half as often: sums in registers 0 to 3.
template <Index Registers>
inline void amx_row_double_step(const bf16* w, const bf16* w16, Index stride, const std::uint32_t* x) {
  _tile_loadd(4, w, stride);
  _tile_loadd(6, x, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(5, w16, stride);
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (Registers > 1) {
    _tile_loadd(7, x + AmxRowPanels::register_size, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

/// sums (16 · Blocks, 16 · Registers) = x's parts times the `count` rows of W, `stride` elements apart, that the
/// registers have room for.
template <Index Registers, Index Blocks>
inline void amx_row_sums(const AmxRowPanels& x, const bf16* w, Index stride, Index count, float* sums) {
  constexpr Index block = AmxRowPanels::block;
  const Index in = x.cols(), whole = in / block;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if constexpr (Registers > 4) _tile_zero(4);
  if constexpr (Registers > 5) _tile_zero(5);
  const auto step = [](const bf16* at, Index spacing, const std::uint32_t* panel) {
    if constexpr (Blocks == 2) {
      amx_row_double_step<Registers>(at, at + 16 * spacing, spacing * static_cast<Index>(sizeof(bf16)), panel);
    } else {
      amx_row_step<Registers>(at, spacing * static_cast<Index>(sizeof(bf16)), panel);
    }
  };
  amx::memory_fence();
  for (Index b = 0; b < whole; ++b) step(w + b * block, stride, x.at(b));
  if (whole * block < in) {  // a copy with zeros behind the row's end
    alignas(64) bf16 last[16 * Blocks * block] = {};
    for (Index o = 0; o < count; ++o) std::copy(w + o * stride + whole * block, w + o * stride + in, last + o * block);
    amx::memory_fence();
    step(last, block, x.at(whole));
  }
  constexpr Index to = Registers * 64;
  _tile_stored(0, sums, to);
  if constexpr (Registers > 1) _tile_stored(1, sums + 16, to);
  if constexpr (Blocks == 2) {
    _tile_stored(2, sums + Registers * 256, to);
    if constexpr (Registers > 1) _tile_stored(3, sums + Registers * 256 + 16, to);
  }
  if constexpr (Registers > 2) _tile_stored(2, sums + 32, to);
  if constexpr (Registers > 3) _tile_stored(3, sums + 48, to);
  if constexpr (Registers > 4) _tile_stored(4, sums + 64, to);
  if constexpr (Registers > 5) _tile_stored(5, sums + 80, to);
  amx::memory_fence();
}

/// y(r, o + i) = row i of `sums` (16, rows), number r, + bias, for i < count.
inline void store_columns(const float* sums, Index rows, Index o, Index count, const float* bias, MatrixView<float> y) {
  const simd::Floats begin = bias == nullptr ? simd::zero()
                             : count == 16   ? simd::load(bias + o)
                                             : simd::load_partial(bias + o, count);
  const auto store = [&](Index r, simd::Floats v) {
    if (count == 16) {
      simd::store(y.row(r) + o, v + begin);
    } else {
      simd::store_partial(y.row(r) + o, v + begin, count);
    }
  };
  for (Index r = 0; r < rows; r += 16) {
    simd::Floats v[16];
#pragma GCC unroll 16
    for (Index i = 0; i < 16; ++i) v[i] = simd::load(sums + i * rows + r);
    if (rows - r <= 8) {
      simd::transpose_first_half(v);
#pragma GCC unroll 8
      for (Index i = 0; i < 8; ++i) {
        if (r + i < rows) store(r + i, v[i]);
      }
    } else {
      simd::transpose(v);
#pragma GCC unroll 16
      for (Index i = 0; i < 16; ++i) {
        if (r + i < rows) store(r + i, v[i]);
      }
    }
  }
}

/// Rows [first, first + streams · length) of W as `streams` ≤ 16 · Blocks streams, each a contiguous part of them: then
/// a core's own prefetchers follow them, from one step to the next too.
template <Index Registers, Index Blocks>
inline void amx_row_streams(const AmxRowPanels& x, const PlainRows<bf16>& weight, Index first, Index streams,
                            Index length, const float* bias, MatrixView<float> y) {
  constexpr Index most = 16 * Blocks, width = 16 * Registers;
  const Index rows = x.rows();
  // Vectors are loaded beyond a row's end, for lanes that are not used.
  alignas(64) float sums[most * width + 2 * AmxRowPanels::most_rows] = {};
  alignas(64) float results[most * 16 * AmxRowPanels::most_rows + 16];  // (streams, 16, rows)
  for (Index o = 0; o < length; ++o) {
    amx_row_sums<Registers, Blocks>(x, weight.data + (first + o) * weight.stride, length * weight.stride, streams,
                                    sums);
    for (Index r = 0; r < rows; r += 16) {
      const Index lanes = std::min<Index>(16, rows - r);
      for (Index i = 0; i < streams; ++i) {
        const float* const from = sums + i * width + r;
        const simd::Floats sum = x.parts() == 1
                                     ? simd::load(from)
                                     : simd::load(from) + (simd::load(from + rows) + simd::load(from + 2 * rows));
        simd::store_partial(results + (i * 16 + o % 16) * rows + r, sum, lanes);
      }
    }
    if (o % 16 < 15 && o + 1 < length) continue;
    for (Index i = 0; i < streams; ++i) {
      store_columns(results + i * 16 * rows, rows, first + i * length + o / 16 * 16, o % 16 + 1, bias, y);
    }
  }
}

template <Index Registers>
inline void amx_row_products(const AmxRowPanels& x, const PlainRows<bf16>& weight, Index first, Index last,
                             const float* bias, MatrixView<float> y) {
  constexpr Index blocks = Registers <= 2 ? 2 : 1, streams = 16 * blocks;
  // An odd length: rows are often a power of two long, and streams a multiple of it apart would meet in the caches.
  while (last - first >= streams) {
    const Index length = ((last - first) / streams - 1) | 1;
    const amx::Session session;
    amx_row_streams<Registers, blocks>(x, weight, first, streams, length, bias, y);
    first += streams * length;
  }
  for (; first < last; first += 16) {
    const Index count = std::min<Index>(16, last - first);
    const amx::Session session(count);
    amx_row_streams<Registers, 1>(x, weight, first, count, 1, bias, y);
  }
}

}  // namespace detail

/// row_products (row_products.hpp) for up to AmxRowPanels::most_rows rows of x, where amx::permitted().
template <Index Registers = 6>
inline void amx_row_products(const AmxRowPanels& x, const PlainRows<bf16>& weight, Index first, Index last,
                             const float* bias, MatrixView<float> y) {
  if constexpr (Registers > 1) {
    if (x.registers() < Registers) return amx_row_products<Registers - 1>(x, weight, first, last, bias, y);
  }
  detail::amx_row_products<Registers>(x, weight, first, last, bias, y);
}

#endif

}  // namespace xlstm::cpu
