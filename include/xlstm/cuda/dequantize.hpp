// SPDX-License-Identifier: Apache-2.0
// Quantised weights (core/quantization.hpp) on a device, in the layout of the files: 16 bytes of codes at a time become
// floats in registers, or whole rows a dense matrix, for products that a library does.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "xlstm/core/quantization.hpp"
#include "xlstm/cuda/floats.hpp"
#include "xlstm/cuda/launch.hpp"

namespace xlstm::cuda {

/// 16 bytes of a row's codes: `columns` adjacent columns, which share a scale.
template <QuantizedFormat F>
struct CodeUnit {
  static constexpr int columns = 16 * 8 / F::bits;
  static_assert(F::group_size % columns == 0);

  Vector<std::uint32_t, 4> words;

  template <DeviceThread Thread>
  XLSTM_DEVICE static CodeUnit load(Thread& thread, const std::uint8_t* codes) {
    return {std::bit_cast<Vector<std::uint32_t, 4>>(thread.template load_streaming<16>(codes))};
  }

  /// The codes of columns 4·chunk and the three after it.
  XLSTM_DEVICE Floats<4> codes(int chunk) const {
    // A byte b in the lowest bits of 2^23 is the float 2^23 + b.
    constexpr float zero = F::bits == 8 ? 0x1p23F + 128 : 0x1p23F + 8;
    std::uint32_t bytes = words[chunk % 4];
    if constexpr (F::bits == 8) {
      bytes ^= 0x80808080U;
    } else {
      bytes = (chunk < 4 ? bytes : bytes >> 4) & 0x0f0f0f0fU;
    }
    Floats<4> values;
    XLSTM_UNROLL
    for (int i = 0; i < 4; ++i) {
      values[i] = std::bit_cast<float>(0x4b000000U | (bytes >> (8 * i) & 0xffU)) - zero;
    }
    return values;
  }
};

/// A thread has a unit.
template <QuantizedFormat F, class T>
struct DequantizeKernel {
  const std::uint8_t* codes;
  const bf16* scales;
  Index rows;
  Index in;
  T* weights;

  static constexpr int threads = 256;

  template <DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    using Unit = CodeUnit<F>;
    const Index row_units = F::row_bytes(in) / 16;
    const Index at = Index{thread.block_index().x} * threads + thread.index();
    if (at >= rows * row_units) return;
    const Index row = at / row_units, column = at % row_units * Unit::columns;
    const Unit unit = Unit::load(thread, codes + at * 16);
    const float scale = to_float(scales[row * F::groups(in) + column / F::group_size]);
    XLSTM_UNROLL
    for (int chunk = 0; chunk < Unit::columns / 4; chunk += 2) {
      Floats<8> values;
      XLSTM_UNROLL
      for (int half = 0; half < 2; ++half) {
        const Floats<4> four = unit.codes(chunk + half);
        XLSTM_UNROLL
        for (int i = 0; i < 4; ++i) values[4 * half + i] = four[i] * scale;
      }
      store_floats(thread, weights + at * Unit::columns + 4 * chunk, values);
    }
  }
};

/// From one row of dequantised weights to the next.
constexpr Index dequantized_stride(Index in) { return round_up(in, quantization_run); }

/// weights (rows, dequantized_stride(in)) = scale · code, rounded to T; the columns beyond `in` become zeros. codes and
/// weights are aligned to 16 bytes.
template <QuantizedFormat F, class T, Launcher L>
void dequantize(L& launcher, const std::uint8_t* codes, const bf16* scales, Index rows, Index in, T* weights) {
  using K = DequantizeKernel<F, T>;
  launcher.launch({static_cast<int>(ceil_div(rows * F::row_bytes(in) / 16, K::threads))},
                  K{codes, scales, rows, in, weights});
}

}  // namespace xlstm::cuda
