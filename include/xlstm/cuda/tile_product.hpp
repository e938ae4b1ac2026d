// SPDX-License-Identifier: Apache-2.0
// Products of a warp with tiles in shared memory, C (16 × 8) += A (16 × 16) B (16 × 8), C spread over the lanes as
// FragmentC says: on tensor cores for bf16 and f16, and for float with the same names and layouts in plain fp32.
#pragma once

#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/mma.hpp"
#include "xlstm/cuda/thread.hpp"

namespace xlstm::cuda {

/// Elements from a row of a tile to the next: 16 bytes more than the row, so that eight rows begin in different banks.
/// Columns is a multiple of 16.
template <class T, int Columns>
inline constexpr int tile_stride = Columns + vector_width<T>;

/// The product for elements of T: bf16, f16, float.
template <class T>
struct TileProduct;

template <TensorCoreElement T>
struct TileProduct<T> {
  using A = FragmentA<T>;

  /// A(r, c) = tile[r·stride + c].
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static A load(Thread& thread, SharedPointer tile, int stride) {
    return load_a<T>(thread, tile, stride);
  }
  /// A(r, c) = tile[c·stride + r].
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static A load_transposed(Thread& thread, SharedPointer tile, int stride) {
    return load_a_transposed<T>(thread, tile, stride);
  }
  /// A from two neighbouring tiles of sums, rounded to T.
  template <class Thread>
  XLSTM_DEVICE static A from_sums(Thread&, const FragmentC& left, const FragmentC& right) {
    return as_a<T>(left, right);
  }
  /// c += A B with B(r, c) = tile[r·stride + c].
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static void add_rows(Thread& thread, FragmentC& c, const A& a, SharedPointer tile, int stride) {
    thread.mma(c, a, load_b_transposed<T>(thread, tile, stride));
  }
  /// c += A B with B(r, c) = tile[c·stride + r].
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static void add_columns(Thread& thread, FragmentC& c, const A& a, SharedPointer tile, int stride) {
    thread.mma(c, a, load_b<T>(thread, tile, stride));
  }
};

template <>
struct TileProduct<float> {
  static constexpr int depth = 16;
  /// Of a lane: the two rows of A that its sums are in.
  struct A {
    float rows[2][depth];
  };

  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static A load(Thread& thread, SharedPointer tile, int stride) {
    return load(thread, tile, stride, 1);
  }
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static A load_transposed(Thread& thread, SharedPointer tile, int stride) {
    return load(thread, tile, 1, stride);
  }
  /// The four lanes that share a row of sums exchange them.
  template <class Thread>
  XLSTM_DEVICE static A from_sums(Thread& thread, const FragmentC& left, const FragmentC& right) {
    A a;
    XLSTM_UNROLL
    for (int i = 0; i < depth; ++i) {
      const int from = thread.lane() / 4 * 4 + i % 8 / 2;
      const FragmentC& half = i < 8 ? left : right;
      a.rows[0][i] = thread.shuffle(half.values[i % 2], from);
      a.rows[1][i] = thread.shuffle(half.values[2 + i % 2], from);
    }
    return a;
  }
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static void add_rows(Thread& thread, FragmentC& c, const A& a, SharedPointer tile, int stride) {
    add(thread, c, a, tile, stride, 1);
  }
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static void add_columns(Thread& thread, FragmentC& c, const A& a, SharedPointer tile, int stride) {
    add(thread, c, a, tile, 1, stride);
  }

 private:
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static A load(Thread& thread, SharedPointer tile, int row_stride, int column_stride) {
    A a;
    XLSTM_UNROLL
    for (int i = 0; i < depth; ++i) {
      a.rows[0][i] = tile[thread.lane() / 4 * row_stride + i * column_stride];
      a.rows[1][i] = tile[(thread.lane() / 4 + 8) * row_stride + i * column_stride];
    }
    return a;
  }
  template <class Thread, class SharedPointer>
  XLSTM_DEVICE static void add(Thread& thread, FragmentC& c, const A& a, SharedPointer tile, int row_stride,
                               int column_stride) {
    const int column = thread.lane() % 4 * 2;
    XLSTM_UNROLL
    for (int i = 0; i < depth; ++i) {
      const float left = tile[i * row_stride + column * column_stride];
      const float right = tile[i * row_stride + (column + 1) * column_stride];
      c.values[0] += a.rows[0][i] * left;
      c.values[1] += a.rows[0][i] * right;
      c.values[2] += a.rows[1][i] * left;
      c.values[3] += a.rows[1][i] * right;
    }
  }
};

// Tiles of sums beside each other, of a warp: `Product` is a TileProduct.

/// sums += A B with B(r, c) = tile[r·stride + c].
template <class Product, int Tiles, class Thread, class SharedPointer>
XLSTM_DEVICE void add_rows(Thread& thread, FragmentC (&sums)[Tiles], const typename Product::A& a, SharedPointer tile,
                           int stride) {
  XLSTM_UNROLL
  for (int j = 0; j < Tiles; ++j) Product::add_rows(thread, sums[j], a, tile + j * FragmentC::columns, stride);
}
/// sums += A B with B(r, c) = tile[c·stride + r].
template <class Product, int Tiles, class Thread, class SharedPointer>
XLSTM_DEVICE void add_columns(Thread& thread, FragmentC (&sums)[Tiles], const typename Product::A& a,
                              SharedPointer tile, int stride) {
  XLSTM_UNROLL
  for (int j = 0; j < Tiles; ++j) {
    Product::add_columns(thread, sums[j], a, tile + j * FragmentC::columns * stride, stride);
  }
}
/// sums += A B, where the warp has 16 rows of A(r, c) = left[r·left_stride + c], c < Depth, and B(r, c) =
/// right[r·right_stride + c].
template <class Product, int Depth, int Tiles, class Thread, class SharedPointer>
XLSTM_DEVICE void add_product_with_rows(Thread& thread, FragmentC (&sums)[Tiles], SharedPointer left, int left_stride,
                                        SharedPointer right, int right_stride) {
  for (int inner = 0; inner < Depth; inner += 16) {
    const auto a = Product::load(thread, left + (thread.warp() * 16 * left_stride + inner), left_stride);
    add_rows<Product>(thread, sums, a, right + inner * right_stride, right_stride);
  }
}
/// The same with B(r, c) = right[c·right_stride + r].
template <class Product, int Depth, int Tiles, class Thread, class SharedPointer>
XLSTM_DEVICE void add_product_with_columns(Thread& thread, FragmentC (&sums)[Tiles], SharedPointer left,
                                           int left_stride, SharedPointer right, int right_stride) {
  for (int inner = 0; inner < Depth; inner += 16) {
    const auto a = Product::load(thread, left + (thread.warp() * 16 * left_stride + inner), left_stride);
    add_columns<Product>(thread, sums, a, right + inner, right_stride);
  }
}
/// sums += A B, where A are sums, too, rounded to the product's elements, and B(r, c) = right[r·stride + c].
template <class Product, int Inner, int Tiles, class Thread, class SharedPointer>
XLSTM_DEVICE void add_product_of_sums(Thread& thread, FragmentC (&sums)[Tiles], const FragmentC (&left)[Inner],
                                      SharedPointer right, int stride) {
  XLSTM_UNROLL
  for (int inner = 0; inner < Inner / 2; ++inner) {
    const auto a = Product::from_sums(thread, left[2 * inner], left[2 * inner + 1]);
    add_rows<Product>(thread, sums, a, right + inner * 16 * stride, stride);
  }
}

/// For stage_tile: rows as they are.
struct Unscaled {
  XLSTM_HOST_DEVICE float operator()(int) const { return 1.0F; }
};

/// The block copies rows × columns elements from global memory into a tile of Rows × Columns in shared memory, zeros
/// elsewhere, row r multiplied by factor(r) in fp32 and rounded to To. Width elements are read at once, of which
/// `columns` and the place of every row are multiples. Barriers are the caller's.
template <class To, int Rows, int Columns, int Width, class From, DeviceThread Thread, class SharedPointer,
          class Factor = Unscaled>
XLSTM_DEVICE void stage_tile(Thread& thread, SharedPointer tile, const From* from, Index from_stride, int rows,
                             int columns, Factor factor = {}) {
  static_assert(Columns % Width == 0, "xlstm: a tile's rows must be whole vectors");
  constexpr int row_vectors = Columns / Width;
  constexpr int threads = Thread::block_threads;
  constexpr int all = Rows * row_vectors;
  constexpr int batch =
      all < 8 * threads ? static_cast<int>(ceil_div(all, threads)) : 8;  // loads of a thread under way
  constexpr int store_width = access_width<Width, To>;
  for (int first = thread.index(); first < all; first += batch * threads) {
    Vector<From, Width> values[batch];
    XLSTM_UNROLL
    for (int j = 0; j < batch; ++j) {
      const int at = first + j * threads;
      const int row = at / row_vectors;
      const int column = at % row_vectors * Width;
      values[j] = {};
      if (row < rows && column < columns) values[j] = thread.template load<Width>(from + row * from_stride + column);
    }
    XLSTM_UNROLL
    for (int j = 0; j < batch; ++j) {
      const int at = first + j * threads;
      const int row = at / row_vectors;
      const int column = at % row_vectors * Width;
      if (at >= all) continue;
      const float scale = row < rows ? factor(row) : 0.0F;
      XLSTM_UNROLL
      for (int i = 0; i < Width; i += store_width) {
        Vector<To, store_width> written;
        XLSTM_UNROLL
        for (int e = 0; e < store_width; ++e) written[e] = to_element<To>(scale * to_float(values[j][i + e]));
        thread.store(tile + (row * tile_stride<To, Columns> + column + i), written);
      }
    }
  }
}

}  // namespace xlstm::cuda
