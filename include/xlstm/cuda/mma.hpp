// SPDX-License-Identifier: Apache-2.0
// The tensor cores' product m16n8k16 with fp32 sums (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point
// type"): C (16 × 8) += A (16 × 16) B (16 × 8), spread over the registers of a warp. A fragment is what one lane holds;
// row() and column() say which entries. `Thread::mma` multiplies; load_a, load_b fill fragments from shared memory.
//
// On tensor cores the products are exact and their sum is rounded in an order that is not documented; the emulation
// adds in double and rounds once. They agree to about 2⁻²² of the sum of the products' absolute values.
#pragma once

#include <cstdint>
#include <type_traits>

#include "xlstm/core/element.hpp"
#include "xlstm/cuda/math.hpp"
#include "xlstm/cuda/qualifiers.hpp"

namespace xlstm::cuda {

/// Two 16-bit elements in a register, the first in the lower half.
template <class T>
XLSTM_HOST_DEVICE constexpr std::uint32_t pack(T low, T high) {
  static_assert(sizeof(T) == 2, "xlstm: only 16-bit elements go two to a register");
  return static_cast<std::uint32_t>(low.bits) | static_cast<std::uint32_t>(high.bits) << 16;
}

/// Half `which` (0: the lower) of a register.
template <class T>
XLSTM_HOST_DEVICE constexpr T unpack(std::uint32_t packed, int which) {
  return T::from_bits(static_cast<std::uint16_t>(packed >> (16 * which)));
}

/// A, 16 × 16: element i (0…7) of a lane is A(row, column); elements 2j and 2j + 1 are in register j.
template <class T>
struct FragmentA {
  static constexpr int rows = 16;
  static constexpr int columns = 16;
  static constexpr int elements = 8;
  XLSTM_HOST_DEVICE static constexpr int row(int lane, int i) { return lane / 4 + 8 * (i / 2 % 2); }
  XLSTM_HOST_DEVICE static constexpr int column(int lane, int i) { return lane % 4 * 2 + i % 2 + 8 * (i / 4); }

  std::uint32_t registers[4];
};

/// B, 16 × 8.
template <class T>
struct FragmentB {
  static constexpr int rows = 16;
  static constexpr int columns = 8;
  static constexpr int elements = 4;
  XLSTM_HOST_DEVICE static constexpr int row(int lane, int i) { return lane % 4 * 2 + i % 2 + 8 * (i / 2); }
  XLSTM_HOST_DEVICE static constexpr int column(int lane, int) { return lane / 4; }

  std::uint32_t registers[2];
};

/// C, 16 × 8, sums in fp32.
struct FragmentC {
  static constexpr int rows = 16;
  static constexpr int columns = 8;
  static constexpr int elements = 4;
  XLSTM_HOST_DEVICE static constexpr int row(int lane, int i) { return lane / 4 + 8 * (i / 2); }
  XLSTM_HOST_DEVICE static constexpr int column(int lane, int i) { return lane % 4 * 2 + i % 2; }

  float values[4] = {0, 0, 0, 0};
};

/// The types that m16n8k16 multiplies.
template <class T>
concept TensorCoreElement = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

/// A of the next product from two neighbouring tiles of sums, columns 0…7 and 8…15 of it, rounded to T: where a lane's
/// sums are is where its elements of A have to be.
template <TensorCoreElement T>
XLSTM_HOST_DEVICE FragmentA<T> as_a(const FragmentC& left, const FragmentC& right) {
  return {{to_pair<T>(left.values[0], left.values[1]), to_pair<T>(left.values[2], left.values[3]),
           to_pair<T>(right.values[0], right.values[1]), to_pair<T>(right.values[2], right.values[3])}};
}

// The loads below are ldmatrix: rows of 8 elements that begin at multiples of 16 bytes. Where rows follow each other at
// a distance of 16 bytes modulo 128 (an odd number of 16-byte units), none of the banks is used twice.

/// A(r, c) = tile[r·stride + c]: A lies in rows.
template <class T, class Thread, class SharedPointer>
XLSTM_DEVICE FragmentA<T> load_a(Thread& thread, SharedPointer tile, int stride) {
  FragmentA<T> a;
  const int lane = thread.lane();
  thread.load_matrices(a.registers, tile + (lane % 16 * stride + lane / 16 * 8));
  return a;
}

/// A(r, c) = tile[c·stride + r]: A lies in columns.
template <class T, class Thread, class SharedPointer>
XLSTM_DEVICE FragmentA<T> load_a_transposed(Thread& thread, SharedPointer tile, int stride) {
  FragmentA<T> a;
  const int lane = thread.lane();
  thread.load_matrices_transposed(a.registers, tile + ((lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8));
  return a;
}

/// B(r, c) = tile[c·stride + r]: B lies in columns, as the keys of q·kᵀ do.
template <class T, class Thread, class SharedPointer>
XLSTM_DEVICE FragmentB<T> load_b(Thread& thread, SharedPointer tile, int stride) {
  FragmentB<T> b;
  const int lane = thread.lane() % 16;
  thread.load_matrices(b.registers, tile + (lane % 8 * stride + lane / 8 * 8));
  return b;
}

/// B(r, c) = tile[r·stride + c]: B lies in rows, as the values do.
template <class T, class Thread, class SharedPointer>
XLSTM_DEVICE FragmentB<T> load_b_transposed(Thread& thread, SharedPointer tile, int stride) {
  FragmentB<T> b;
  thread.load_matrices_transposed(b.registers, tile + thread.lane() % 16 * stride);
  return b;
}

}  // namespace xlstm::cuda
