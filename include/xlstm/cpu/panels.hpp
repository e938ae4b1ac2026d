// SPDX-License-Identifier: Apache-2.0
// Small matrix products for the mLSTM's chunks: D = A·B with B cut into panels of as many columns as a register tile
// is wide, each panel contiguous, and A read element by element (broadcast) with any two strides, so that neither A
// nor its transpose needs packing. The register tile is the usual one of Goto and van de Geijn (ACM TOMS 34, 2008).
// Nothing here allocates.
#pragma once

#include <cstddef>

#include "xlstm/core/index.hpp"
#include "xlstm/cpu/simd.hpp"

namespace xlstm::cpu {

#define XLSTM_INLINE __attribute__((always_inline)) inline
/// After the parameters of a lambda that gets a Tile: a call would keep its sums in memory, at two thirds of the speed.
#define XLSTM_INLINE_LAMBDA __attribute__((always_inline))

/// The register tile is tile_rows × panel_width. 32 vector registers hold 8 × 2 sums with room for 2 loads in flight;
/// 16 registers hold 4 × 3, 3 loads and a broadcast.
inline constexpr int tile_rows = simd::registers == 32 ? 8 : 4;
inline constexpr int panel_vectors = simd::registers == 32 ? 2 : 3;
inline constexpr Index panel_width = panel_vectors * simd::width;

/// A rows × cols matrix as panels: element (r, c) is at data[(c / w)·rows·w + r·w + c % w], w = panel_width.
/// The last panel is padded; what pads is zero where the matrix was packed here.
struct Panels {
  float* data = nullptr;
  Index rows = 0;
  Index cols = 0;

  Index count() const { return ceil_div(cols, panel_width); }
  float* panel(Index p) const { return data + p * rows * panel_width; }
  float* at(Index r, Index c) const { return panel(c / panel_width) + r * panel_width + c % panel_width; }
  /// Floats that a rows × cols matrix takes.
  static constexpr Index size(Index rows, Index cols) { return rows * round_up(cols, panel_width); }
};

/// One panel of `width` columns from row-major memory, row r multiplied by scale(r).
template <class Scale>
inline void pack_panel(float* to, Index rows, Index width, const float* from, Index stride, Scale scale) {
  for (Index r = 0; r < rows; ++r, to += panel_width, from += stride) {
    const float factor = scale(r);
    if (width >= panel_width) {
      for (Index c = 0; c < panel_width; ++c) to[c] = from[c] * factor;
    } else {
      for (Index c = 0; c < width; ++c) to[c] = from[c] * factor;
      for (Index c = width; c < panel_width; ++c) to[c] = 0.0F;
    }
  }
}

/// Row by row, as memory lies: rows may be pages apart.
template <class Scale>
inline void pack(const Panels& to, const float* from, Index stride, Scale scale) {
  for (Index r = 0; r < to.rows; ++r, from += stride) {
    for (Index p = 0; p < to.count(); ++p)
      pack_panel(to.panel(p) + r * panel_width, 1, to.cols - p * panel_width, from + p * panel_width, stride,
                 [&](Index) { return scale(r); });
  }
}

inline void pack(const Panels& to, const float* from, Index stride) {
  pack(to, from, stride, [](Index) { return 1.0F; });
}

/// Panel p back to row-major memory.
inline void unpack_panel(const Panels& from, Index p, float* to, Index stride) {
  const Index first = p * panel_width;
  const Index width = from.cols - first < panel_width ? from.cols - first : panel_width;
  const float* in = from.panel(p);
  for (Index r = 0; r < from.rows; ++r, in += panel_width)
    for (Index c = 0; c < width; ++c) to[r * stride + first + c] = in[c];
}

/// Σ a(r, c) b(r, c) over two matrices of one shape whose padding is zero; stretches in float, their sum in double.
inline double dot(const Panels& a, const Panels& b) {
  constexpr Index stretch = 512;
  const Index size = Panels::size(a.rows, a.cols);
  double total = 0;
  for (Index i = 0; i < size; i += stretch)
    total += static_cast<double>(simd::dot(a.data + i, b.data + i, size - i < stretch ? size - i : stretch));
  return total;
}

/// Panels of the transpose of a row-major (to.cols × to.rows) matrix; square blocks of vectors where they fit.
inline void pack_transposed(const Panels& to, const float* from, Index stride) {
  constexpr Index n = simd::width;
  const Index whole_rows = to.rows / n * n;
  for (Index c = 0; c < round_up(to.cols, panel_width); c += n) {
    float* out = to.at(0, c);
    Index r = 0;
    if (c + n <= to.cols) {
      for (; r < whole_rows; r += n) {
        simd::Floats block[n];
        for (Index i = 0; i < n; ++i) block[i] = simd::load(from + (c + i) * stride + r);
        simd::transpose(block);
        for (Index i = 0; i < n; ++i) simd::store(out + (r + i) * panel_width, block[i]);
      }
    }
    for (; r < to.rows; ++r)
      for (Index i = 0; i < n; ++i) out[r * panel_width + i] = c + i < to.cols ? from[(c + i) * stride + r] : 0.0F;
  }
}

/// One panel of the transpose: rows [first, first + 32) of `from` as columns, from.cols rows of them.
inline void pack_transposed_rows(float* to, const Panels& from, Index first) {
  const Index width = from.rows - first < panel_width ? from.rows - first : panel_width;
  for (Index p = 0; p < from.count(); ++p) {
    const Index first_row = p * panel_width;
    const Index rows = from.cols - first_row < panel_width ? from.cols - first_row : panel_width;
    pack_transposed({to + first_row * panel_width, rows, width}, from.panel(p) + first * panel_width, panel_width);
  }
}

/// The left operand of a product, where it lies: rows i and columns k of memory whose panel_width rows and columns
/// follow each other at one distance, and groups of so many at another.
struct LeftOperand {
  const float* data = nullptr;
  Index row = 0, step = 0;              ///< from one i, one k, to the next
  Index row_panel = 0, step_panel = 0;  ///< from one group of panel_width to the next

  static LeftOperand rows_of(const float* data, Index stride) {
    return {data, stride, 1, panel_width * stride, panel_width};
  }
  static LeftOperand rows_of(const Panels& p) {
    return {p.data, panel_width, 1, panel_width * panel_width, p.rows * panel_width};
  }
  /// The transpose.
  static LeftOperand columns_of(const Panels& p) {
    return {p.data, 1, panel_width, p.rows * panel_width, panel_width * panel_width};
  }
  const float* at(Index i, Index k) const {
    return data + i / panel_width * row_panel + i % panel_width * row + k / panel_width * step_panel +
           k % panel_width * step;
  }
};

/// Which part of a square left operand is used: all, or what lies on and below (above) the diagonal, to whole tiles.
enum class Part { all, lower, upper };

/// Rows × panel_width sums in registers.
template <int Rows>
struct Tile {
  simd::Floats sum[Rows][panel_vectors];

  static constexpr Index rows() { return Rows; }

  XLSTM_INLINE void clear() {
    for (auto& row : sum)
      for (simd::Floats& x : row) x = simd::Floats{};
  }

  /// Rows of a panel, times a factor.
  XLSTM_INLINE void load(const float* from, float factor) {
    const simd::Floats f = simd::broadcast(factor);
    for (int r = 0; r < Rows; ++r)
      for (int c = 0; c < panel_vectors; ++c) sum[r][c] = f * simd::load(from + r * panel_width + c * simd::width);
  }

  XLSTM_INLINE void store(float* to, Index stride) const {
    for (int r = 0; r < Rows; ++r)
      for (int c = 0; c < panel_vectors; ++c) simd::store(to + r * stride + c * simd::width, sum[r][c]);
  }

  /// The first `width` columns only.
  XLSTM_INLINE void store(float* to, Index stride, Index width) const {
    if (width >= panel_width) return store(to, stride);
    float all[static_cast<std::size_t>(Rows * panel_width)];
    store(all, panel_width);
    for (Index r = 0; r < Rows; ++r)
      for (Index c = 0; c < width; ++c) to[r * stride + c] = all[r * panel_width + c];
  }

  /// Row r times factor[r].
  XLSTM_INLINE void scale(const float* factor) {
    for (int r = 0; r < Rows; ++r) {
      const simd::Floats f = simd::broadcast(factor[r]);
      for (simd::Floats& x : sum[r]) x *= f;
    }
  }

  /// total[r] += Σ_c sum(r, c)·with[r·panel_width + c].
  XLSTM_INLINE void add_row_dots(const float* with, double* total) const {
    simd::Floats product[Rows];
    for (int r = 0; r < Rows; ++r) {
      product[r] = sum[r][0] * simd::load(with + r * panel_width);
      for (int c = 1; c < panel_vectors; ++c)
        product[r] += sum[r][c] * simd::load(with + r * panel_width + c * simd::width);
    }
    if constexpr (Rows % 4 == 0) {
      for (int r = 0; r < Rows; r += 4) {
        float sums[4];
        simd::reduce_add_four({product[r], product[r + 1], product[r + 2], product[r + 3]}, sums);
        for (int i = 0; i < 4; ++i) total[r + i] += static_cast<double>(sums[i]);
      }
    } else {
      for (int r = 0; r < Rows; ++r) total[r] += static_cast<double>(simd::reduce_add(product[r]));
    }
  }

  /// sum(r, ·) += Σ_{x < depth} a[r·a_row + x·a_step] · b[x·panel_width + ·].
  XLSTM_INLINE void add_product(const float* a, Index a_row, Index a_step, const float* b, Index depth) {
    for (Index x = 0; x < depth; ++x, a += a_step, b += panel_width) {
      simd::Floats column[panel_vectors];
      for (int c = 0; c < panel_vectors; ++c) column[c] = simd::load(b + c * simd::width);
      for (int r = 0; r < Rows; ++r) {
        const simd::Floats x_r = simd::broadcast(a[r * a_row]);
        for (int c = 0; c < panel_vectors; ++c) sum[r][c] += x_r * column[c];
      }
    }
  }

  /// sum(r, ·) += Σ_{k < depth} a(i + r, k) · b[k·panel_width + ·].
  XLSTM_INLINE void add(const LeftOperand& a, Index i, const float* b, Index depth) { add(a, i, b, 0, depth); }
  /// The same of a square matrix that is zero above (below) its diagonal.
  XLSTM_INLINE void add_lower(const LeftOperand& a, Index i, const float* b, Index) { add(a, i, b, 0, i + Rows); }
  XLSTM_INLINE void add_upper(const LeftOperand& a, Index i, const float* b, Index depth) { add(a, i, b, i, depth); }

 private:
  /// Of the summands [from, to).
  XLSTM_INLINE void add(const LeftOperand& a, Index i, const float* b, Index from, Index to) {
    if (a.step_panel == panel_width * a.step) {
      return add_product(a.at(i, from), a.row, a.step, b + from * panel_width, to - from);
    }
    for (Index k = from; k < to; k += panel_width) {
      add_product(a.at(i, k), a.row, a.step, b + k * panel_width, to - k < panel_width ? to - k : panel_width);
    }
  }
};

/// Calls f(tile, row) for tiles that cover the rows [first, end): of tile_rows rows each, then of 4, 2 and 1.
template <class F>
XLSTM_INLINE void for_each_tile(Index first, Index end, F&& f) {
  Index r = first;
  for (; r + tile_rows <= end; r += tile_rows) {
    Tile<tile_rows> tile;
    f(tile, r);
  }
  if constexpr (tile_rows > 4) {
    if (r + 4 <= end) {
      Tile<4> tile;
      f(tile, r);
      r += 4;
    }
  }
  if (r + 2 <= end) {
    Tile<2> tile;
    f(tile, r);
    r += 2;
  }
  if (r < end) {
    Tile<1> tile;
    f(tile, r);
  }
}

}  // namespace xlstm::cpu
