// SPDX-License-Identifier: Apache-2.0
// A thread of a device on the host: the functions of cuda::DeviceThread, each of which checks that it may be called so.
#pragma once

#include <cstring>
#include <type_traits>

#include "xlstm/cuda/math.hpp"
#include "xlstm/cuda/thread.hpp"
#include "xlstm/testing/emulated_block.hpp"

namespace xlstm::testing {

/// An element of shared memory that is about to be read or written; no value of its own.
template <class T>
class EmulatedReference {
 public:
  EmulatedReference(detail::EmulatedBlock& block, detail::EmulatedArray& array, int thread, Index i)
      : block_(block), array_(array), thread_(thread), i_(i) {}
  EmulatedReference(const EmulatedReference&) = delete;

  operator T() && {
    T x;
    std::memcpy(&x, array_.read(block_.position(thread_), i_, 1), sizeof(T));
    return x;
  }
  void operator=(const T& x) && { std::memcpy(array_.write(block_.position(thread_), i_, 1), &x, sizeof(T)); }
  void operator=(EmulatedReference&& other) && { std::move(*this) = static_cast<T>(std::move(other)); }
  void operator+=(const T& x) && {
    change([&](const T& before) { return before + x; });
  }
  void operator-=(const T& x) && {
    change([&](const T& before) { return before - x; });
  }
  void operator*=(const T& x) && {
    change([&](const T& before) { return before * x; });
  }

 private:
  template <class F>
  void change(F&& f) {
    T x;
    std::memcpy(&x, array_.read(block_.position(thread_), i_, 1), sizeof(T));
    x = static_cast<T>(f(x));
    std::memcpy(array_.write(block_.position(thread_), i_, 1), &x, sizeof(T));
  }

  detail::EmulatedBlock& block_;
  detail::EmulatedArray& array_;
  int thread_;
  Index i_;
};

/// A place in shared memory, as one thread sees it.
template <class T>
class EmulatedPointer {
 public:
  EmulatedPointer() = default;
  EmulatedPointer(detail::EmulatedBlock& block, detail::EmulatedArray& array, int thread)
      : block_(&block), array_(&array), thread_(thread) {}

  EmulatedReference<T> operator[](Index i) const { return {*block_, *array_, thread_, offset_ + i}; }
  EmulatedReference<T> operator*() const { return (*this)[0]; }
  EmulatedPointer operator+(Index by) const {
    EmulatedPointer moved = *this;
    moved += by;
    return moved;
  }
  EmulatedPointer operator-(Index by) const { return *this + -by; }
  EmulatedPointer& operator+=(Index by) {
    offset_ += by;
    return *this;
  }

  detail::EmulatedArray& array() const { return *array_; }
  Index offset() const { return offset_; }
  /// Fails unless it is at a multiple of `bytes`.
  void check_alignment(Index bytes, const char* does) const {
    if (offset_ * static_cast<Index>(sizeof(T)) % bytes != 0) {
      detail::fault("thread ", thread_, " ", does, " ", array_->name(), "[", offset_,
                    "], which is not at a multiple of ", bytes, " bytes");
    }
  }

 private:
  detail::EmulatedBlock* block_ = nullptr;
  detail::EmulatedArray* array_ = nullptr;
  int thread_ = 0;
  Index offset_ = 0;
};

template <class K>
class EmulatedThread {
  using Place = std::source_location;

 public:
  using Kernel = K;
  template <class T>
  using SharedPointer = EmulatedPointer<T>;
  static constexpr int block_threads = K::threads;

  EmulatedThread(detail::EmulatedBlock& block, int index) : block_(block), index_(index) {}
  EmulatedThread(const EmulatedThread&) = delete;
  EmulatedThread& operator=(const EmulatedThread&) = delete;

  int index() const { return index_; }
  int lane() const { return index_ % cuda::warp_size; }
  int warp() const { return index_ / cuda::warp_size; }
  cuda::BlockIndex block_index() const { return block_.index(); }
  cuda::GridSize block_count() const { return block_.grid(); }

  void sync_block(Place where = Place::current()) { block_.sync_block(index_, where); }
  void sync_warp(Place where = Place::current()) { block_.sync_warp(index_, where); }
  void fence() const {}

  template <cuda::Shuffled T>
  T shuffle(T x, int from, Place where = Place::current()) {
    if (from < 0 || from >= cuda::warp_size) detail::fault("thread ", index_, " shuffles from lane ", from);
    return exchange(x, from, "shuffle", where);
  }
  template <cuda::Shuffled T>
  T shuffle_xor(T x, int mask, Place where = Place::current()) {
    if (mask < 0 || mask >= cuda::warp_size) detail::fault("thread ", index_, " shuffles by the mask ", mask);
    return exchange(x, lane() ^ mask, "shuffle_xor", where);
  }
  template <cuda::Shuffled T>
  T shuffle_up(T x, int by, Place where = Place::current()) {
    return exchange(x, lane() >= by ? lane() - by : lane(), "shuffle_up", where);
  }
  template <cuda::Shuffled T>
  T shuffle_down(T x, int by, Place where = Place::current()) {
    return exchange(x, lane() + by < cuda::warp_size ? lane() + by : lane(), "shuffle_down", where);
  }
  std::uint32_t ballot(bool condition, Place where = Place::current()) { return vote(condition, "ballot", where); }
  bool any(bool condition, Place where = Place::current()) { return vote(condition, "any", where) != 0; }
  bool all(bool condition, Place where = Place::current()) { return vote(condition, "all", where) == 0xffffffffU; }

  template <class Array>
  EmulatedPointer<typename Array::value_type> shared() {
    static_assert(cuda::SharedOf<K>::template contains<Array>,
                  "xlstm: the kernel uses a shared array that its SharedLayout does not list");
    return {block_, block_.array(cuda::SharedOf<K>::template index<Array>()), index_};
  }

  template <int N, class T>
  cuda::Vector<T, N> load(const T* from) {
    check_alignment(from, sizeof(cuda::Vector<T, N>), "loads");
    cuda::Vector<T, N> values;
    for (int i = 0; i < N; ++i) values[i] = from[i];
    return values;
  }
  template <int N, class T>
  cuda::Vector<T, N> load_streaming(const T* from) {
    return load<N>(from);
  }
  template <int N, class T>
  cuda::Vector<T, N> load(EmulatedPointer<T> from) {
    from.check_alignment(sizeof(cuda::Vector<T, N>), "loads");
    cuda::Vector<T, N> values;
    std::memcpy(values.values, from.array().read(position(), from.offset(), N), sizeof(values.values));
    return values;
  }
  template <int N, class T>
  void store(T* to, const cuda::Vector<T, N>& values) {
    check_alignment(to, sizeof(values), "stores");
    for (int i = 0; i < N; ++i) to[i] = values[i];
  }
  template <int N, class T>
  void store(EmulatedPointer<T> to, const cuda::Vector<T, N>& values) {
    to.check_alignment(sizeof(values), "stores");
    std::memcpy(to.array().write(position(), to.offset(), N), values.values, sizeof(values.values));
  }

  template <class T>
  T atomic_add(T* to, std::type_identity_t<T> x) {
    const T before = *to;
    *to = before + x;
    return before;
  }
  template <class T>
  T atomic_add(EmulatedPointer<T> to, std::type_identity_t<T> x) {
    std::byte* memory = to.array().change_atomically(position(), to.offset());
    T before;
    std::memcpy(&before, memory, sizeof(T));
    const T after = before + x;
    std::memcpy(memory, &after, sizeof(T));
    return before;
  }

  template <int N, class T>
  void copy_async(EmulatedPointer<T> to, const T* from, int valid = N) {
    constexpr Index bytes = N * static_cast<Index>(sizeof(T));
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "xlstm: an asynchronous copy moves 4, 8 or 16 bytes");
    if (valid < 0 || valid > N) detail::fault("thread ", index_, " copies ", valid, " of ", N, " elements");
    to.check_alignment(bytes, "copies to");
    check_alignment(from, bytes, "copies from");
    block_.copy_async(index_, to.array(), to.offset(), N, from, valid * static_cast<Index>(sizeof(T)));
  }
  void copy_async_commit() { block_.copy_async_commit(index_); }
  template <int Latest>
  void copy_async_wait() {
    static_assert(Latest >= 0, "xlstm: a wait leaves the latest 0, 1, … groups of copies under way");
    block_.copy_async_wait(index_, Latest);
  }

  template <cuda::TensorCoreElement T>
  void mma(cuda::FragmentC& c, const cuda::FragmentA<T>& a, const cuda::FragmentB<T>& b,
           Place where = Place::current()) {
    struct Operands {
      cuda::FragmentC& c;
      const cuda::FragmentA<T>& a;
      const cuda::FragmentB<T>& b;
    } mine{c, a, b};
    block_.warp_function(index_, "mma", where, mine, [](const auto& lanes) {
      float left[16][16];
      float right[16][8];
      for_each_element<cuda::FragmentA<T>>(lanes, [&](int r, int k, const Operands& o, int i) {
        left[r][k] = cuda::unpack<T>(o.a.registers[i / 2], i % 2);
      });
      for_each_element<cuda::FragmentB<T>>(lanes, [&](int k, int col, const Operands& o, int i) {
        right[k][col] = cuda::unpack<T>(o.b.registers[i / 2], i % 2);
      });
      for_each_element<cuda::FragmentC>(lanes, [&](int r, int col, const Operands& o, int i) {
        double sum = static_cast<double>(o.c.values[i]);
        for (int k = 0; k < 16; ++k) sum += static_cast<double>(left[r][k]) * static_cast<double>(right[k][col]);
        o.c.values[i] = static_cast<float>(sum);
      });
    });
  }

  template <int Matrices, class T>
  void load_matrices(std::uint32_t (&to)[Matrices], EmulatedPointer<T> row, Place where = Place::current()) {
    load_rows<false>(to, row, "load_matrices", where);
  }
  template <int Matrices, class T>
  void load_matrices_transposed(std::uint32_t (&to)[Matrices], EmulatedPointer<T> row, Place where = Place::current()) {
    load_rows<true>(to, row, "load_matrices_transposed", where);
  }

 private:
  detail::Position position() const { return block_.position(index_); }

  template <class T>
  void check_alignment(const T* address, std::size_t bytes, const char* does) const {
    if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0) {
      detail::fault("thread ", index_, " ", does, " ", bytes, " bytes at an address that is not a multiple of them");
    }
  }

  template <class T>
  T exchange(T x, int from, const char* function, const Place& where) {
    struct Exchange {
      T given;
      T taken;
      int from;
    } mine{x, x, from};
    block_.warp_function(index_, function, where, mine, [](const auto& lanes) {
      for (auto* lane : lanes) lane->taken = lanes[static_cast<std::size_t>(lane->from)]->given;
    });
    return mine.taken;
  }
  std::uint32_t vote(bool condition, const char* function, const Place& where) {
    struct Vote {
      bool condition;
      std::uint32_t result;
    } mine{condition, 0};
    block_.warp_function(index_, function, where, mine, [](const auto& lanes) {
      std::uint32_t result = 0;
      for (std::size_t l = 0; l < lanes.size(); ++l) result |= std::uint32_t{lanes[l]->condition} << l;
      for (auto* lane : lanes) lane->result = result;
    });
    return mine.result;
  }

  template <class Fragment, class Lanes, class F>
  static void for_each_element(const Lanes& lanes, F&& f) {
    for (int lane = 0; lane < cuda::warp_size; ++lane) {
      for (int i = 0; i < Fragment::elements; ++i) {
        f(Fragment::row(lane, i), Fragment::column(lane, i), *lanes[static_cast<std::size_t>(lane)], i);
      }
    }
  }

  template <bool Transposed, int Matrices, class T>
  void load_rows(std::uint32_t (&to)[Matrices], EmulatedPointer<T> row, const char* function, const Place& where) {
    static_assert(Matrices == 1 || Matrices == 2 || Matrices == 4, "xlstm: 1, 2 or 4 matrices are loaded at once");
    static_assert(sizeof(T) == 2, "xlstm: matrices of 16-bit elements are loaded");
    struct Rows {
      EmulatedPointer<T> row;
      std::uint32_t* to;
      int thread;
    } mine{row, to, index_};
    block_.warp_function(index_, function, where, mine, [&](const auto& lanes) {
      for (std::size_t j = 0; j < Matrices; ++j) {
        std::uint16_t matrix[8][8];
        for (std::size_t r = 0; r < 8; ++r) {
          const Rows& address = *lanes[8 * j + r];
          address.row.check_alignment(16, "loads the row of a matrix at");
          const auto by = block_.position(address.thread);
          std::memcpy(matrix[r], address.row.array().read(by, address.row.offset(), 8), 16);
        }
        for (std::size_t l = 0; l < lanes.size(); ++l) {
          const std::size_t r = l / 4;
          const std::size_t c = l % 4 * 2;
          const std::uint32_t low = Transposed ? matrix[c][r] : matrix[r][c];
          const std::uint32_t high = Transposed ? matrix[c + 1][r] : matrix[r][c + 1];
          lanes[l]->to[j] = low | high << 16;
        }
      }
    });
  }

  detail::EmulatedBlock& block_;
  int index_;
};

namespace detail {
struct ExampleKernel {
  static constexpr int threads = 32;
};
}  // namespace detail
static_assert(cuda::DeviceThread<EmulatedThread<detail::ExampleKernel>>);

}  // namespace xlstm::testing
