// SPDX-License-Identifier: Apache-2.0
// Shared memory as a list of named arrays, known to the compiler. A kernel names its arrays by types and lists them:
//
//     struct Partial : cuda::SharedArray<float, 32> {};
//     struct Tile : cuda::SharedArray<bf16, 64 * 72> {};
//     using Shared = cuda::SharedLayout<Partial, Tile>;
//
// and `thread.template shared<Tile>()` is the way to one of them. SharedOverlay<A, B> in the list is memory for A or B,
// at different times. On a GPU the arrays lie one after another in a single dynamic allocation; on the host each is a
// memory of its own that knows who wrote what, and when.
#pragma once

#include <type_traits>

#include "xlstm/core/index.hpp"

namespace xlstm::cuda {

/// An array in shared memory. Derive from it to give it a name.
template <class T, Index Count, Index Alignment = 16>
struct SharedArray {
  static_assert(std::is_trivially_copyable_v<T>, "xlstm: shared memory holds trivially copyable values only");
  static_assert(Count > 0, "xlstm: a shared array needs at least one element");
  static_assert(Alignment >= 16 && Alignment <= 1024 && (Alignment & (Alignment - 1)) == 0,
                "xlstm: shared arrays are aligned to a power of two from 16 to 1024 bytes");
  using value_type = T;
  static constexpr Index count = Count;
  static constexpr Index alignment = Alignment;
  static constexpr Index bytes = Count * static_cast<Index>(sizeof(T));
};

/// Memory for one of the alternatives at a time: each is an array or a SharedLayout. A barrier of the block separates
/// their uses, and what an alternative held is gone when another has been used.
template <class... Alternatives>
struct SharedOverlay {};

template <class... Entries>
struct SharedLayout;

namespace detail {
/// What a layout has to know of an entry; of an array here.
template <class Array>
struct SharedEntry {
  static constexpr bool is_overlay = false;
  static constexpr int arrays = 1;
  static constexpr Index alignment = Array::alignment;
  static constexpr Index bytes = Array::bytes;
  template <class A>
  static constexpr bool contains = std::is_same_v<A, Array>;
  template <class A>
  static constexpr Index offset() {
    return 0;
  }
  template <class A>
  static constexpr int index() {
    return 0;
  }
  template <class F>
  static void for_each(F&& f, int overlay, int alternative) {
    f.template operator()<Array>(overlay, alternative);
  }
};
template <class... Entries>
struct SharedEntry<SharedLayout<Entries...>> : SharedLayout<Entries...> {};
template <class... Alternatives>
struct SharedEntry<SharedOverlay<Alternatives...>> {
  static constexpr bool is_overlay = true;
  static constexpr int arrays = (SharedEntry<Alternatives>::arrays + ...);
  static constexpr Index alignment = [] {
    Index most = 16;
    ((most = SharedEntry<Alternatives>::alignment > most ? SharedEntry<Alternatives>::alignment : most), ...);
    return most;
  }();
  static constexpr Index bytes = [] {
    Index most = 0;
    ((most = SharedEntry<Alternatives>::bytes > most ? SharedEntry<Alternatives>::bytes : most), ...);
    return most;
  }();
  template <class A>
  static constexpr bool contains = (SharedEntry<Alternatives>::template contains<A> || ...);
  template <class A>
  static constexpr Index offset() {
    return (SharedEntry<Alternatives>::template offset<A>() + ...);
  }
  template <class A>
  static constexpr int index() {
    int before = 0;
    int found = 0;
    ((found = SharedEntry<Alternatives>::template contains<A> ? before + SharedEntry<Alternatives>::template index<A>()
                                                              : found,
      before += SharedEntry<Alternatives>::arrays),
     ...);
    return found;
  }
  template <class F>
  static void for_each(F&& f, int overlay, int) {
    int alternative = 0;
    (SharedEntry<Alternatives>::for_each(f, overlay, alternative++), ...);
  }
};
}  // namespace detail

/// A kernel's shared memory: arrays, SharedOverlays and other layouts, one after another.
template <class... Entries>
struct SharedLayout {
  static constexpr bool is_overlay = false;
  static constexpr int arrays = (detail::SharedEntry<Entries>::arrays + ... + 0);
  static constexpr Index alignment = [] {
    Index most = 16;
    ((most = detail::SharedEntry<Entries>::alignment > most ? detail::SharedEntry<Entries>::alignment : most), ...);
    return most;
  }();
  /// All of it.
  static constexpr Index bytes = [] {
    Index end = 0;
    ((end = round_up(end, detail::SharedEntry<Entries>::alignment) + detail::SharedEntry<Entries>::bytes), ...);
    return end;
  }();
  template <class Array>
  static constexpr bool contains = (detail::SharedEntry<Entries>::template contains<Array> || ...);

  /// Where an array begins, in bytes; 0 for an array that is not here.
  template <class Array>
  static constexpr Index offset() {
    Index end = 0;
    Index found = 0;
    ((end = round_up(end, detail::SharedEntry<Entries>::alignment),
      found = detail::SharedEntry<Entries>::template contains<Array>
                  ? end + detail::SharedEntry<Entries>::template offset<Array>()
                  : found,
      end += detail::SharedEntry<Entries>::bytes),
     ...);
    return found;
  }
  /// Which of the arrays it is; 0 for an array that is not here.
  template <class Array>
  static constexpr int index() {
    int before = 0;
    int found = 0;
    ((found = detail::SharedEntry<Entries>::template contains<Array>
                  ? before + detail::SharedEntry<Entries>::template index<Array>()
                  : found,
      before += detail::SharedEntry<Entries>::arrays),
     ...);
    return found;
  }
  /// Calls `f.template operator()<Array>(overlay, alternative)` for each array, in the order of index(): which overlay
  /// of the layout it is in, −1 for none, and which of its alternatives.
  template <class F>
  static void for_each([[maybe_unused]] F&& f, [[maybe_unused]] int overlay = -1,
                       [[maybe_unused]] int alternative = 0) {
    int entry = 0;
    ((detail::SharedEntry<Entries>::for_each(f,
                                             overlay >= 0                               ? overlay
                                             : detail::SharedEntry<Entries>::is_overlay ? entry
                                                                                        : -1,
                                             alternative),
      ++entry),
     ...);
  }
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
