// SPDX-License-Identifier: Apache-2.0
// A kernel that calls every function of cuda::DeviceThread, so that each is compiled for every architecture, and a test
// on a host or a device can ask whether they did what they should: it counts what did.
#pragma once

#include "xlstm/cuda/collective.hpp"
#include "xlstm/cuda/mma.hpp"

namespace xlstm::tests {

struct EveryFunction {
  const float* x;  ///< (256): 0, 1, 2, …
  int* passed;     ///< (1): 0; gets one from every thread for each of `checks`
  static constexpr int threads = 64;
  static constexpr int checks = 19;

  struct Values : cuda::SharedArray<float, 256> {};
  template <class T>
  struct Tile : cuda::SharedArray<T, 2 * 16 * 16> {};  // one a warp
  using Shared = cuda::SharedLayout<Values, cuda::SharedOverlay<Tile<bf16>, Tile<f16>>, cuda::BlockReduceStorage<int>>;

  template <cuda::DeviceThread Thread>
  XLSTM_DEVICE void operator()(Thread& thread) const {
    const int i = thread.index();
    const int lane = thread.lane();
    int count = 0;
    const auto check = [&](bool holds) { count += holds ? 1 : 0; };

    check(i == thread.warp() * cuda::warp_size + lane && thread.block_index().x < thread.block_count().x);
    check(thread.shuffle(static_cast<float>(lane), 3) == 3.0F);
    check(thread.shuffle_xor(static_cast<double>(lane), 1) == static_cast<double>(lane ^ 1));
    check(thread.shuffle_up(lane, 1) == (lane > 0 ? lane - 1 : 0));
    check(thread.shuffle_down(lane, 1) == (lane < 31 ? lane + 1 : 31));
    check(thread.any(lane == 5) && !thread.any(lane < 0));
    check(thread.all(lane >= 0) && !thread.all(lane == 5));
    check(thread.ballot(lane < 4) == 15U);

    auto values = thread.template shared<Values>();
    thread.template copy_async<2>(values + 4 * i, x + 4 * i);
    thread.template copy_async<2>(values + 4 * i + 2, x + 4 * i + 2, 1);
    thread.copy_async_commit();
    thread.template copy_async_wait<0>();
    const cuda::Vector<float, 4> mine = thread.template load<4>(values + 4 * i);
    check(mine[0] == static_cast<float>(4 * i) && mine[2] == static_cast<float>(4 * i + 2) && mine[3] == 0.0F);
    thread.sync_block();
    thread.template copy_async<4>(values + 4 * i, x + 4 * i);
    thread.copy_async_commit();
    thread.template copy_async_wait<0>();
    thread.sync_block();
    const float other = values[255 - i];
    check(other == static_cast<float>(255 - i));
    thread.sync_block();
    check(thread.template load_streaming<2>(x + 2 * i)[1] == static_cast<float>(2 * i + 1));
    thread.template copy_async<1>(values + i, x + i);
    thread.copy_async_commit();
    thread.template copy_async_wait<0>();
    thread.sync_warp();
    const float neighbour = values[i ^ 1];
    check(neighbour == static_cast<float>(i ^ 1));

    thread.sync_block();
    if (i == 0) values[0] = 0.0F;
    thread.sync_block();
    thread.atomic_add(values, 1.0F);
    thread.sync_block();
    const float sum = values[0];
    check(sum == static_cast<float>(threads));

    check(product<bf16>(thread));
    check(transposed_product<bf16>(thread));
    thread.sync_block();
    check(product<f16>(thread));
    check(transposed_product<f16>(thread));
    check(one_matrix<f16>(thread));

    check(cuda::warp_inclusive_scan(thread, 1, cuda::Sum{}) == lane + 1);
    thread.fence();
    const int all = cuda::block_reduce(thread, count, cuda::Sum{});
    if (i == 0) thread.atomic_add(passed, all);
  }

 private:
  /// A warp's tile: entry (r, c) is r + c/16, exact in both types.
  template <class T, class Thread>
  XLSTM_DEVICE auto tile(Thread& thread) const {
    return thread.template shared<Tile<T>>() + thread.warp() * 256;
  }
  XLSTM_DEVICE static float entry(int r, int c) { return static_cast<float>(r) + static_cast<float>(c) / 16.0F; }
  template <class T, class Thread>
  XLSTM_DEVICE void fill(Thread& thread) const {
    auto to = tile<T>(thread);
    for (int at = thread.lane(); at < 256; at += cuda::warp_size) {
      to[at] = cuda::to_element<T>(at / 16 < 8 ? entry(at / 16, at % 16) : 0.0F);
    }
    thread.sync_warp();
  }
  /// Whether the sums are Σ_k left(r, k) right(k, c).
  template <class Thread, class Left, class Right>
  XLSTM_DEVICE bool sums_are(Thread& thread, const cuda::FragmentC& c, Left&& left, Right&& right) const {
    bool equal = true;
    for (int i = 0; i < cuda::FragmentC::elements; ++i) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) {
        sum += left(cuda::FragmentC::row(thread.lane(), i), k) * right(k, cuda::FragmentC::column(thread.lane(), i));
      }
      equal = equal && cuda::abs(c.values[i] - sum) <= 1e-4F * sum;
    }
    return equal;
  }
  template <class T, class Thread>
  XLSTM_DEVICE bool product(Thread& thread) const {
    fill<T>(thread);
    cuda::FragmentC c;
    thread.mma(c, cuda::load_a<T>(thread, tile<T>(thread), 16), cuda::load_b<T>(thread, tile<T>(thread), 16));
    return sums_are(
        thread, c, [](int r, int k) { return r < 8 ? entry(r, k) : 0.0F; },
        [](int k, int column) { return entry(column, k); });
  }
  template <class T, class Thread>
  XLSTM_DEVICE bool transposed_product(Thread& thread) const {
    cuda::FragmentC c;
    thread.mma(c, cuda::load_a_transposed<T>(thread, tile<T>(thread), 16),
               cuda::load_b_transposed<T>(thread, tile<T>(thread), 16));
    const auto stored = [](int r, int column) { return r < 8 ? entry(r, column) : 0.0F; };
    return sums_are(
        thread, c, [&](int r, int k) { return stored(k, r); }, [&](int k, int column) { return stored(k, column); });
  }
  template <class T, class Thread>
  XLSTM_DEVICE bool one_matrix(Thread& thread) const {
    const int lane = thread.lane();
    std::uint32_t rows[1];
    std::uint32_t columns[1];
    thread.load_matrices(rows, tile<T>(thread) + lane % 8 * 16);
    thread.load_matrices_transposed(columns, tile<T>(thread) + lane % 8 * 16);
    return cuda::to_float(cuda::unpack<T>(rows[0], 1)) == entry(lane / 4, lane % 4 * 2 + 1) &&
           cuda::to_float(cuda::unpack<T>(columns[0], 1)) == entry(lane % 4 * 2 + 1, lane / 4);
  }
};

}  // namespace xlstm::tests
