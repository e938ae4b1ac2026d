// SPDX-License-Identifier: Apache-2.0
// A thread of a GPU (sm_80 and later): every function is an instruction or two (CUDA programming guide; PTX ISA for
// cp.async, ldmatrix, mma). Empty; what it says of itself comes from the hardware's registers.
#pragma once

#include "xlstm/cuda/thread.hpp"

#if defined(__CUDACC__)

#include <bit>
#include <cub/warp/warp_scan.cuh>

namespace xlstm::cuda {

template <class K>
class GpuThread {
 public:
  using Kernel = K;
  template <class T>
  using SharedPointer = T*;
  static constexpr int block_threads = K::threads;

  __device__ __forceinline__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int lane() const { return index() % warp_size; }
  __device__ __forceinline__ int warp() const { return index() / warp_size; }
  __device__ __forceinline__ BlockIndex block_index() const {
    return {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z)};
  }
  __device__ __forceinline__ GridSize block_count() const {
    return {static_cast<int>(gridDim.x), static_cast<int>(gridDim.y), static_cast<int>(gridDim.z)};
  }

  __device__ __forceinline__ void sync_block() const { __syncthreads(); }
  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }
  __device__ __forceinline__ void fence() const { __threadfence(); }

  template <Shuffled T>
  __device__ __forceinline__ T shuffle(T x, int from) const {
    return moved(x, [&](auto word) { return __shfl_sync(every_lane, word, from); });
  }
  template <Shuffled T>
  __device__ __forceinline__ T shuffle_xor(T x, int mask) const {
    return moved(x, [&](auto word) { return __shfl_xor_sync(every_lane, word, mask); });
  }
  template <Shuffled T>
  __device__ __forceinline__ T shuffle_up(T x, int by) const {
    return moved(x, [&](auto word) { return __shfl_up_sync(every_lane, word, static_cast<unsigned>(by)); });
  }
  template <Shuffled T>
  __device__ __forceinline__ T shuffle_down(T x, int by) const {
    return moved(x, [&](auto word) { return __shfl_down_sync(every_lane, word, static_cast<unsigned>(by)); });
  }
  __device__ __forceinline__ bool any(bool condition) const { return __any_sync(every_lane, condition) != 0; }
  __device__ __forceinline__ bool all(bool condition) const { return __all_sync(every_lane, condition) != 0; }
  __device__ __forceinline__ std::uint32_t ballot(bool condition) const { return __ballot_sync(every_lane, condition); }

  /// The warp's scan by CUB, which joins values in the order of collective.hpp's.
  template <class T, class Operation>
  __device__ __forceinline__ T inclusive_scan(T x, Operation operation) const {
    typename cub::WarpScan<T>::TempStorage nothing;  // a whole warp's lanes have shuffles
    static_assert(sizeof nothing == 1);
    T result;
    cub::WarpScan<T>(nothing).InclusiveScan(x, result, operation);
    return result;
  }

  template <class Array>
  __device__ __forceinline__ typename Array::value_type* shared() const {
    static_assert(SharedOf<K>::template contains<Array>,
                  "xlstm: the kernel uses a shared array that its SharedLayout does not list");
    extern __shared__ __align__(1024) unsigned char block_memory[];
    constexpr Index offset = SharedOf<K>::template offset<Array>();
    return reinterpret_cast<typename Array::value_type*>(block_memory + offset);
  }

  template <int N, class T>
  __device__ __forceinline__ Vector<std::remove_const_t<T>, N> load(T* from) const {
    using V = Vector<std::remove_const_t<T>, N>;
    return std::bit_cast<V>(*reinterpret_cast<const Word<sizeof(V)>*>(from));
  }
  template <int N, class T>
  __device__ __forceinline__ Vector<T, N> load_streaming(const T* from) const {
    return std::bit_cast<Vector<T, N>>(__ldcs(reinterpret_cast<const Word<sizeof(Vector<T, N>)>*>(from)));
  }
  template <int N, class T>
  __device__ __forceinline__ void store(T* to, const Vector<T, N>& values) const {
    using W = Word<sizeof(Vector<T, N>)>;
    *reinterpret_cast<W*>(to) = std::bit_cast<W>(values);
  }

  template <class T>
  __device__ __forceinline__ T atomic_add(T* to, std::type_identity_t<T> x) const {
    return atomicAdd(to, x);
  }

  template <int N, class T>
  __device__ __forceinline__ void copy_async(T* to, const T* from, int valid = N) const {
    constexpr int bytes = N * static_cast<int>(sizeof(T));
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "xlstm: an asynchronous copy moves 4, 8 or 16 bytes");
    const int source_bytes = valid * static_cast<int>(sizeof(T));
    if constexpr (bytes == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                   "r"(source_bytes)
                   : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(bytes),
                   "r"(source_bytes)
                   : "memory");
    }
  }
  __device__ __forceinline__ void copy_async_commit() const { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int Latest>
  __device__ __forceinline__ void copy_async_wait() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(Latest) : "memory");
  }

  __device__ __forceinline__ void mma(FragmentC& c, const FragmentA<bf16>& a, const FragmentB<bf16>& b) const {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3])
        : "r"(a.registers[0]), "r"(a.registers[1]), "r"(a.registers[2]), "r"(a.registers[3]), "r"(b.registers[0]),
          "r"(b.registers[1]));
  }
  __device__ __forceinline__ void mma(FragmentC& c, const FragmentA<f16>& a, const FragmentB<f16>& b) const {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.values[0]), "+f"(c.values[1]), "+f"(c.values[2]), "+f"(c.values[3])
        : "r"(a.registers[0]), "r"(a.registers[1]), "r"(a.registers[2]), "r"(a.registers[3]), "r"(b.registers[0]),
          "r"(b.registers[1]));
  }

  template <int Matrices, class T>
  __device__ __forceinline__ void load_matrices(std::uint32_t (&to)[Matrices], T* row) const {
    check_matrices<Matrices, T>();
    if constexpr (Matrices == 1) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                   : "=r"(to[0])
                   : "r"(shared_address(row))
                   : "memory");
    } else if constexpr (Matrices == 2) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                   : "=r"(to[0]), "=r"(to[1])
                   : "r"(shared_address(row))
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(shared_address(row))
                   : "memory");
    }
  }
  template <int Matrices, class T>
  __device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&to)[Matrices], T* row) const {
    check_matrices<Matrices, T>();
    if constexpr (Matrices == 1) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                   : "=r"(to[0])
                   : "r"(shared_address(row))
                   : "memory");
    } else if constexpr (Matrices == 2) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                   : "=r"(to[0]), "=r"(to[1])
                   : "r"(shared_address(row))
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(shared_address(row))
                   : "memory");
    }
  }

 private:
  static constexpr unsigned every_lane = 0xffffffffU;
  template <std::size_t Bytes>
  using Word = std::conditional_t<
      Bytes == 16, uint4,
      std::conditional_t<Bytes == 8, uint2, std::conditional_t<Bytes == 4, unsigned, unsigned short>>>;

  template <int Matrices, class T>
  static constexpr void check_matrices() {
    static_assert(Matrices == 1 || Matrices == 2 || Matrices == 4, "xlstm: 1, 2 or 4 matrices are loaded at once");
    static_assert(sizeof(T) == 2, "xlstm: matrices of 16-bit elements are loaded");
  }
  template <class T, class F>
  __device__ __forceinline__ static T moved(T x, F&& f) {
    using W = std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long>;
    return std::bit_cast<T>(static_cast<W>(f(std::bit_cast<W>(x))));
  }
  template <class T>
  __device__ __forceinline__ static unsigned shared_address(T* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
  }
};

namespace detail {
struct ExampleKernel {
  struct Values : SharedArray<float, 32> {};
  using Shared = SharedLayout<Values>;
  static constexpr int threads = 32;
};
}  // namespace detail
static_assert(DeviceThread<GpuThread<detail::ExampleKernel>>);

}  // namespace xlstm::cuda

#endif
