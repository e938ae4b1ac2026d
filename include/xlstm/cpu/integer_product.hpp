// SPDX-License-Identifier: Apache-2.0
// The blocked product of quantised weights with activations rounded to 8 bits (int8_activations.hpp has the equation),
// in integers: matrix_product.hpp's structure with panels of bytes. One instruction multiplies 4 columns of 16 rows of
// weights by 4 columns of an input row; where a scale ends, a tile's integers are added to its floats.
// Every element is one chain in the order of the columns: the bits depend neither on the number of threads nor on which
// rows and columns are computed together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>

#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/index.hpp"
#include "xlstm/core/quantization.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/int8_activations.hpp"
#include "xlstm/cpu/prefetch.hpp"
#include "xlstm/cpu/quantized_rows.hpp"
#include "xlstm/cpu/register_tile.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu {

/// One of several integer products of the same x: y (rows, out) = x Wᵀ + bias. `bias` is null or (out).
template <QuantizedFormat F>
struct IntegerTask {
  typename detail::RowsOfFormat<F>::type weight;
  Index out = 0;
  const float* bias = nullptr;
  MatrixView<float> y;
};

/// The measured choices: the tile of y in registers (least_tile_m for few rows), the columns whose weights are packed
/// at once (first-level cache), the rows of x that are, and below how many rows row_products is faster.
struct IntegerProductTuning {
  static constexpr Index tile_m = 12;
  static constexpr Index least_tile_m = 4;
  static constexpr Index tile_n = 2 * simd::width;
  static constexpr Index k = 768;
  static constexpr Index m = 1024 / tile_m * tile_m;
  static constexpr Index least_rows = 4;
};

/// y_t = x W_tᵀ + bias_t for every task: x (rows, in) is rounded here, and packed once. Scratch comes from the arena.
/// Where has_integer_products.
template <QuantizedFormat F, Executor Exec>
void integer_products(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const IntegerTask<F>> tasks);

#if defined(XLSTM_SIMD_AVX512) && defined(__AVX512VNNI__)

namespace detail {

// Panels are blocks of 64 columns one after another. Of x, for a tile of rows: codes (16, rows, 4), scales (rows),
// and for each step the integers that sums begin with (rows). Of W, for 32 rows: codes (16, 32, 4) and for each step
// scales (32). A step is the columns that share a scale: 64 or 32.

inline constexpr Index integer_tile_n = IntegerProductTuning::tile_n;
constexpr Index input_block_bytes(Index tile) { return tile * (integer_block + 12); }
constexpr Index weight_block_bytes(Index steps) { return integer_tile_n * (integer_block + 4 * steps); }

/// Rounds `count` rows of x into a panel for `tile` rows.
inline void pack_rounded(MatrixView<const float> x, Index first, Index count, Index tile, Index steps, int bias,
                         std::uint8_t* panel) {
  for (Index column = 0; column < x.cols(); column += integer_block, panel += input_block_bytes(tile)) {
    std::uint8_t* const scales = panel + tile * integer_block;
    std::uint8_t* const starts = scales + tile * 4;
    for (Index i = 0; i < tile; ++i) {
      std::int8_t codes[integer_block] = {};
      const float scale = i < count ? round_block(x.row(first + i) + column, x.cols() - column, codes) : 0.0F;
      for (Index g = 0; g < integer_block / 4; ++g) std::memcpy(panel + (g * tile + i) * 4, codes + 4 * g, 4);
      std::memcpy(scales + 4 * i, &scale, 4);
      for (Index s = 0; s < steps; ++s) {
        std::int32_t sum = 0;
        for (Index j = 0; j < integer_block / steps; ++j) sum += codes[s * integer_block / steps + j];
        sum *= -bias;
        std::memcpy(starts + (s * tile + i) * 4, &sum, 4);
      }
    }
  }
}

/// 64 codes of a row from `bytes` on, in order, without sign; of them `count` bytes are inside the row.
template <Index GroupSize>
inline __m512i unsigned_codes(Int8<GroupSize>, const std::uint8_t* bytes, Index count) {
  return _mm512_xor_si512(_mm512_maskz_loadu_epi8(first_bytes(count), bytes), _mm512_set1_epi8(-128));
}
template <Index GroupSize>
inline __m512i unsigned_codes(Int4<GroupSize>, const std::uint8_t* bytes, Index count) {
  const __m512i both = _mm512_maskz_loadu_epi8(first_bytes(std::min<Index>(count, 32)), bytes);
  const __m512i runs = _mm512_maskz_permutexvar_epi64(0xff, _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), both);
  const __m512i shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
  return _mm512_and_si512(_mm512_maskz_srlv_epi64(0xff, runs, shift), _mm512_set1_epi8(15));
}

/// Columns [k, k + depth) of rows [n, n + count), count ≤ 32, as a panel. Asks for the rows that come after them.
template <QuantizedFormat F, class Rows>
void pack_codes(const Rows& weight, Index in, Index k, Index depth, Index n, Index count, std::uint8_t* panel) {
  constexpr Index steps = F::group_size == 32 ? 2 : 1;
  const Index row_bytes = F::row_bytes(in), groups = F::groups(in);
  RowsAhead ahead(weight.codes + (n + integer_tile_n) * row_bytes + k * F::bits / 8, row_bytes, depth * F::bits / 8,
                  integer_tile_n);
  for (Index column = k; column < k + depth; column += integer_block, panel += weight_block_bytes(steps)) {
    const Index byte = column * F::bits / 8, left = row_bytes - byte;
    // Whole blocks apart, so that they are loaded without masks.
    const auto pack_half = [&](Index half, auto&& codes_of) {
      const std::uint8_t* const first = weight.codes + (n + half) * row_bytes + byte;
      simd::Floats v[simd::width];
#pragma GCC unroll 16
      for (Index i = 0; i < simd::width; ++i) {
        if (i % (32 / F::bits) == 0) ahead.next_lines();
        v[i] = _mm512_castsi512_ps(codes_of(first + i * row_bytes, half + i));
      }
      simd::transpose(v);
#pragma GCC unroll 16
      for (Index g = 0; g < simd::width; ++g) std::memcpy(panel + (g * integer_tile_n + half) * 4, &v[g], sizeof v[g]);
    };
    const bool whole = count == integer_tile_n && left >= integer_block * F::bits / 8;
    for (Index half = 0; half < integer_tile_n; half += simd::width) {
      if (whole) {
        pack_half(half, [](const std::uint8_t* codes, Index) { return unsigned_codes(F{}, codes, integer_block); });
      } else {
        pack_half(half, [=](const std::uint8_t* codes, Index row) {
          return row < count ? unsigned_codes(F{}, codes, left) : _mm512_setzero_si512();
        });
      }
    }
    float* scales = reinterpret_cast<float*>(panel + integer_tile_n * integer_block);
    for (Index s = 0; s < steps; ++s, scales += integer_tile_n) {
      const Index group = (column + s * integer_block / steps) / F::group_size;
      const Index inside = group < groups ? count : 0;
      const bf16* from = weight.scales + n * groups + group;
      for (Index i = 0; i < inside; ++i, from += groups) scales[i] = static_cast<float>(*from);
      std::fill(scales + inside, scales + integer_tile_n, 0.0F);
    }
  }
}

/// dots (TileM, 32) = starts + the products of `groups` times 4 columns. Not inlined: among floats a compiler would
/// keep the sums in memory.
template <Index TileM>
[[gnu::noinline]] void integer_dots(const std::uint8_t* x, const std::uint8_t* w, Index groups,
                                    const std::uint8_t* starts, __m512i* dots) {
  constexpr Index vectors = integer_tile_n / simd::width;
  __m512i sum[TileM][vectors];
#pragma GCC unroll 16
  for (Index i = 0; i < TileM; ++i) {
    std::int32_t start;
    std::memcpy(&start, starts + i * 4, 4);
#pragma GCC unroll 2
    for (Index j = 0; j < vectors; ++j) sum[i][j] = _mm512_set1_epi32(start);
  }
  for (Index g = 0; g < groups; ++g, x += 4 * TileM, w += 4 * integer_tile_n) {
    __m512i v[vectors];
#pragma GCC unroll 2
    for (Index j = 0; j < vectors; ++j) v[j] = _mm512_loadu_si512(w + j * 64);
#pragma GCC unroll 16
    for (Index i = 0; i < TileM; ++i) {
      std::int32_t four;
      std::memcpy(&four, x + 4 * i, 4);
      const __m512i all = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (Index j = 0; j < vectors; ++j) sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], v[j], all);
    }
  }
#pragma GCC unroll 16
  for (Index i = 0; i < TileM; ++i) {
#pragma GCC unroll 2
    for (Index j = 0; j < vectors; ++j) dots[i * vectors + j] = sum[i][j];
  }
}

/// count_m × count_n of c (+)= a panel of x times one of W over `blocks` blocks; `initial` (32 values or null) is what
/// rows begin with if not `add`.
template <Index TileM>
void integer_tile(const std::uint8_t* x, const std::uint8_t* w, Index blocks, Index steps, float* c, Index stride,
                  Index count_m, Index count_n, const float* initial, bool add) {
  constexpr Index vectors = integer_tile_n / simd::width;
  simd::Floats total[TileM][vectors] = {};
  __m512i dots[TileM * vectors];
  for (Index b = 0; b < blocks; ++b, x += input_block_bytes(TileM), w += weight_block_bytes(steps)) {
    const std::uint8_t* const scales = x + TileM * integer_block;
    const std::uint8_t* const starts = scales + TileM * 4;
    const float* const w_scales = reinterpret_cast<const float*>(w + integer_tile_n * integer_block);
    const Index groups = integer_block / 4 / steps;
    for (Index s = 0; s < steps; ++s) {
      integer_dots<TileM>(x + s * groups * 4 * TileM, w + s * groups * 4 * integer_tile_n, groups,
                          starts + s * TileM * 4, dots);
      simd::Floats scale[vectors];
#pragma GCC unroll 2
      for (Index j = 0; j < vectors; ++j) scale[j] = simd::load(w_scales + s * integer_tile_n + j * simd::width);
#pragma GCC unroll 16
      for (Index i = 0; i < TileM; ++i) {
        float of_x;
        std::memcpy(&of_x, scales + 4 * i, 4);
#pragma GCC unroll 2
        for (Index j = 0; j < vectors; ++j) {
          total[i][j] = simd::fma(as_floats(dots[i * vectors + j]), scale[j] * simd::broadcast(of_x), total[i][j]);
        }
      }
    }
  }
  store_tile(total, c, stride, count_m, count_n, initial, add);
}

using IntegerTile = void (*)(const std::uint8_t*, const std::uint8_t*, Index, Index, float*, Index, Index, Index,
                             const float*, bool);

/// The tile of `height` rows.
template <Index TileM = IntegerProductTuning::tile_m>
constexpr IntegerTile integer_tile_of(Index height) {
  if constexpr (TileM > IntegerProductTuning::least_tile_m) {
    if (height < TileM) return integer_tile_of<TileM - 1>(height);
  }
  return integer_tile<TileM>;
}

/// The height of tiles for m rows: low ones only where there are fewer.
constexpr Index integer_tile_height(Index m) {
  using Tuning = IntegerProductTuning;
  const Index least = m < Tuning::tile_m ? Tuning::least_tile_m : ceil_div(3 * Tuning::tile_m, 4);
  return tile_height(m, least, Tuning::tile_m);
}

}  // namespace detail

template <QuantizedFormat F, Executor Exec>
void integer_products(Exec& exec, Arena& arena, MatrixView<const float> x, std::span<const IntegerTask<F>> tasks) {
  using Tuning = IntegerProductTuning;
  constexpr Index steps = F::group_size == 32 ? 2 : 1, tile_n = Tuning::tile_n;
  const Index in = x.cols();
  if (x.rows() == 0) return;
  const ArenaScope scope(arena);
  // Runs of tiles: of several where x has few rows, since then weights stream from memory.
  const Index run = x.rows() <= 2 * Tuning::tile_m ? 4 : 1;
  Index runs = 0;
  for (const auto& task : tasks) runs += ceil_div(task.out, run * tile_n);
  const Index height = detail::integer_tile_height(std::min(x.rows(), Tuning::m));
  const Index most_panels = ceil_div(std::min(x.rows(), Tuning::m), height);
  const Index panel_bytes = ceil_div(in, detail::integer_block) * detail::input_block_bytes(height);
  const Index weight_bytes = Tuning::k / detail::integer_block * detail::weight_block_bytes(steps);
  const detail::IntegerTile tile = detail::integer_tile_of(height);
  std::uint8_t* const inputs = arena.allocate<std::uint8_t>(most_panels * panel_bytes);
  std::uint8_t* const weights = arena.allocate<std::uint8_t>(exec.size() * weight_bytes);

  for (Index m0 = 0; m0 < x.rows(); m0 += Tuning::m) {
    const Index rows = std::min(x.rows() - m0, Tuning::m);
    const Index panels = ceil_div(rows, height);
    exec.parallel_for(panels, [&](Index p, int) {
      detail::pack_rounded(x, m0 + p * height, std::min(height, rows - p * height), height, steps,
                           detail::IntegerCodes<F>::bias, inputs + p * panel_bytes);
    });
    // Fewer runs than threads could share evenly: panels are divided too.
    const Index parts = std::min(panels, ceil_div(4 * exec.size(), std::max<Index>(1, runs)));
    exec.parallel_for(runs * parts, [&](Index index, int thread) {
      Index number = index / parts;
      const IntegerTask<F>* task = tasks.data();
      for (Index count; number >= (count = ceil_div(task->out, run * tile_n)); ++task) number -= count;
      const Index part = index % parts;
      const Index first_panel = panels * part / parts, last_panel = panels * (part + 1) / parts;
      std::uint8_t* const w = weights + thread * weight_bytes;
      const Index last = std::min(task->out, (number + 1) * run * tile_n);
      for (Index n = number * run * tile_n; n < last; n += tile_n) {
        const Index count = std::min(tile_n, last - n);
        const float* const bias = task->bias != nullptr ? task->bias + n : nullptr;
        for (Index k = 0; k == 0 || k < in; k += Tuning::k) {
          const Index depth = std::min(Tuning::k, in - k);
          const Index blocks = ceil_div(depth, detail::integer_block);
          detail::pack_codes<F>(task->weight, in, k, depth, n, count, w);
          for (Index p = first_panel; p < last_panel; ++p) {
            const std::uint8_t* const from =
                inputs + p * panel_bytes + k / detail::integer_block * detail::input_block_bytes(height);
            tile(from, w, blocks, steps, task->y.row(m0 + p * height) + n, task->y.stride(), rows - p * height, count,
                 bias, k > 0);
          }
        }
      }
    });
  }
}

#endif

}  // namespace xlstm::cpu
