// SPDX-License-Identifier: Apache-2.0
// What a kernel is: a function object whose call operator is a template of the thread that runs it.
//
//     struct Scale {
//       const float* x;
//       float* y;
//       Index count;
//       static constexpr int threads = 128;                       // of a block
//       // using Shared = cuda::SharedLayout<…>;                  // if it shares memory (cuda/shared.hpp)
//       // static constexpr int blocks_per_multiprocessor = 2;    // if registers are to be limited for it
//
//       template <cuda::DeviceThread Thread>
//       XLSTM_DEVICE void operator()(Thread& thread) const {
//         const Index i = Index{thread.block_index().x} * threads + thread.index();
//         if (i < count) y[i] = 2 * x[i];
//       }
//     };
//
// The object is copied to the device with the launch: it holds pointers, sizes and small values.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "xlstm/cuda/shared.hpp"

namespace xlstm::cuda {

/// Lanes of a warp, on every GPU so far.
inline constexpr int warp_size = 32;

/// Blocks of a launch; x varies fastest.
struct GridSize {
  int x = 1;
  int y = 1;
  int z = 1;
};

/// A block's place in the grid.
struct BlockIndex {
  int x = 0;
  int y = 0;
  int z = 0;
};

/// Bytes of shared memory that a block may have at most: 227 KiB on sm_90a and sm_100 (163 KiB on sm_80, where a launch
/// that asks for more fails).
inline constexpr Index largest_shared_bytes = 227 * 1024;

/// Says in a sentence what keeps K from being a kernel.
template <class K>
constexpr void check_kernel() {
  static_assert(std::is_trivially_copyable_v<K> && sizeof(K) <= 4096,
                "xlstm: a kernel is copied to the device: trivially copyable, at most 4096 bytes");
  static_assert(K::threads > 0 && K::threads <= 1024 && K::threads % warp_size == 0,
                "xlstm: a kernel's `threads` is a multiple of 32 from 32 to 1024");
  static_assert(SharedOf<K>::bytes <= largest_shared_bytes, "xlstm: a block has at most 227 KiB of shared memory");
}

namespace detail {
template <class T>
const char* signature() {
  return __PRETTY_FUNCTION__;
}
}  // namespace detail

/// The name of a type, for messages; needs no run-time type information.
template <class T>
std::string type_name() {
  std::string_view text = detail::signature<T>();
  const auto begin = text.find("T = ");
  const auto end = text.rfind(']');
  if (begin == std::string_view::npos || end == std::string_view::npos) return std::string(text);
  return std::string(text.substr(begin + 4, end - begin - 4));
}

}  // namespace xlstm::cuda
