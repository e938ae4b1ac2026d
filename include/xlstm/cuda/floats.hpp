// SPDX-License-Identifier: Apache-2.0
// Adjacent elements of any type as floats in registers: loaded and stored in accesses of up to 16 bytes.
#pragma once

#include <cstdint>

#include "xlstm/cuda/math.hpp"
#include "xlstm/cuda/thread.hpp"

namespace xlstm::cuda {

/// N values in fp32.
template <int N>
struct Floats {
  static constexpr int size = N;

  XLSTM_HOST_DEVICE constexpr float& operator[](int i) { return values[i]; }
  XLSTM_HOST_DEVICE constexpr const float& operator[](int i) const { return values[i]; }

  float values[N] = {};
};

/// Elements of T in one access, of N adjacent ones.
template <int N, class T>
inline constexpr int access_width = N < vector_width<T> ? N : vector_width<T>;

/// Whether rows from `data` on, `stride` elements apart, can be accessed N elements at a time.
template <int N, class T>
bool rows_are_aligned(const T* data, Index stride) {
  constexpr int width = access_width<N, T>;
  return stride % width == 0 && reinterpret_cast<std::uintptr_t>(data) % (sizeof(T) * width) == 0;
}

/// N elements of global memory, at a multiple of access_width<N, T> elements. Streaming: they are read once, past L1.
template <int N, bool Streaming = false, class T, DeviceThread Thread>
XLSTM_DEVICE Floats<N> load_floats(Thread& thread, const T* from) {
  constexpr int width = access_width<N, T>;
  static_assert(N % width == 0, "xlstm: elements are loaded in whole vectors");
  Floats<N> values;
  XLSTM_UNROLL
  for (int first = 0; first < N; first += width) {
    Vector<T, width> read;
    if constexpr (Streaming) {
      read = thread.template load_streaming<width>(from + first);
    } else {
      read = thread.template load<width>(from + first);
    }
    XLSTM_UNROLL
    for (int i = 0; i < width; ++i) values[first + i] = to_float(read[i]);
  }
  return values;
}

/// The nearest elements of T, to where load_floats<N> would read them.
template <int N, class T, DeviceThread Thread>
XLSTM_DEVICE void store_floats(Thread& thread, T* to, const Floats<N>& values) {
  constexpr int width = access_width<N, T>;
  static_assert(N % width == 0, "xlstm: elements are stored in whole vectors");
  XLSTM_UNROLL
  for (int first = 0; first < N; first += width) {
    Vector<T, width> written;
    XLSTM_UNROLL
    for (int i = 0; i < width; ++i) written[i] = to_element<T>(values[first + i]);
    thread.store(to + first, written);
  }
}

}  // namespace xlstm::cuda
