// SPDX-License-Identifier: Apache-2.0
// Shared memory as a list of named arrays, known to the compiler. A kernel names its arrays by types and lists them:
//
//     struct Partial : cuda::SharedArray<float, 32> {};
//     struct Tile : cuda::SharedArray<bf16, 64 * 72> {};
//     using Shared = cuda::SharedLayout<Partial, Tile>;
//
// and `thread.template shared<Tile>()` is the way to one of them. On a GPU the arrays lie one after another in a single
// dynamic allocation; on the host each is a memory of its own that knows who wrote what, and when.
#pragma once

#include <type_traits>

#include "xlstm/core/index.hpp"

namespace xlstm::cuda {

/// An array in shared memory. Derive from it to give it a name; 128 is what TMA and swizzled tiles want as alignment.
template <class T, Index Count, Index Alignment = 16>
struct SharedArray {
  static_assert(std::is_trivially_copyable_v<T>, "xlstm: shared memory holds trivially copyable values only");
  static_assert(Count > 0, "xlstm: a shared array needs at least one element");
  static_assert(Alignment >= 16 && (Alignment & (Alignment - 1)) == 0,
                "xlstm: shared arrays are aligned to 16 bytes or a larger power of two");
  using value_type = T;
  static constexpr Index count = Count;
  static constexpr Index alignment = Alignment;
  static constexpr Index bytes = Count * static_cast<Index>(sizeof(T));
};

/// The arrays of a kernel, in their order.
template <class... Arrays>
struct SharedLayout {
  template <class Array>
  static constexpr bool contains = (std::is_same_v<Array, Arrays> || ...);

  /// Where the array begins, in bytes.
  template <class Array>
  static constexpr Index offset_of() {
    static_assert(contains<Array>, "xlstm: the kernel uses a shared array that its SharedLayout does not list");
    Index end = 0;
    Index found = 0;
    (
        [&] {
          end = round_up(end, Arrays::alignment);
          if (std::is_same_v<Array, Arrays>) found = end;
          end += Arrays::bytes;
        }(),
        ...);
    return found;
  }
  /// Which array of the list it is.
  template <class Array>
  static constexpr int index_of() {
    static_assert(contains<Array>, "xlstm: the kernel uses a shared array that its SharedLayout does not list");
    int index = 0;
    int found = 0;
    ((found = std::is_same_v<Array, Arrays> ? index : found, ++index), ...);
    return found;
  }
  /// Calls `f.template operator()<Array>()` for each array.
  template <class F>
  static void for_each(F&& f) {
    (f.template operator()<Arrays>(), ...);
  }

  /// All of it, in bytes.
  static constexpr Index bytes = [] {
    Index end = 0;
    ((end = round_up(end, Arrays::alignment) + Arrays::bytes), ...);
    return end;
  }();
};

namespace detail {
template <class K>
struct SharedOf {
  using type = SharedLayout<>;
};
template <class K>
requires requires { typename K::Shared; }
struct SharedOf<K> {
  using type = typename K::Shared;
};
}  // namespace detail

/// A kernel's shared arrays; none where it does not say `using Shared = …`.
template <class K>
using SharedOf = typename detail::SharedOf<K>::type;

}  // namespace xlstm::cuda
