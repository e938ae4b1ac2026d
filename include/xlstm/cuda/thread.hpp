// SPDX-License-Identifier: Apache-2.0
// The thin interface between kernels and the machine: all that a kernel may ask of the thread that runs it. On a GPU
// that is cuda::GpuThread, whose functions are the hardware's instructions; on the host testing::EmulatedThread, whose
// functions also check that they may be called. Kernels use nothing else: no built-in variables, no intrinsics.
//
// Memory. Global memory is reached by plain pointers. Shared memory is reached through SharedPointer<T>, which on a GPU
// is T*. Read an element into a named type, `const float x = tile[i];`: on the host, tile[i] is an access, not a value,
// and `auto` does not compile.
//
// Order. What a thread wrote to shared memory is another thread's to read after sync_block, or after sync_warp within
// the warp. Shuffles, votes and products order nothing. Warp functions are called by all 32 lanes together.
//
// Not here, because no block waits for another in the emulation: spinning on memory that another block writes.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "xlstm/cuda/kernel.hpp"
#include "xlstm/cuda/mma.hpp"
#include "xlstm/cuda/vector.hpp"

namespace xlstm::cuda {

/// What a shuffle moves: one or two registers.
template <class T>
concept Shuffled = std::is_trivially_copyable_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

/// The thread that runs a kernel. T below is any trivially copyable type, N a number of elements; vectors and copies
/// are aligned to their bytes.
template <class Thread>
concept DeviceThread = requires(Thread& thread, typename Thread::template SharedPointer<float> shared,
                                typename Thread::template SharedPointer<bf16> matrix, float* global,
                                const float* constant, float x, double y, int i, Vector<float, 4> vector,
                                FragmentA<bf16> a, FragmentB<bf16> b, FragmentA<f16> a16, FragmentB<f16> b16,
                                FragmentC c, std::uint32_t (&registers)[4]) {
  // Who am I? Blocks have one dimension, grids up to three.
  { Thread::block_threads } -> std::convertible_to<int>;  // of a block; the compiler knows it
  { thread.index() } -> std::same_as<int>;                // in the block
  { thread.lane() } -> std::same_as<int>;                 // in the warp, 0…31
  { thread.warp() } -> std::same_as<int>;                 // in the block
  { thread.block_index() } -> std::same_as<BlockIndex>;   //
  { thread.block_count() } -> std::same_as<GridSize>;     // of the grid

  // Order.
  thread.sync_block();  // all threads of the block
  thread.sync_warp();   // all lanes of the warp
  thread.fence();       // what this thread did to global memory before is seen by all blocks before what it does after

  // Shuffles: lane l gets the value of lane `i`, of lane l ^ i, of lane l − i, of lane l + i; the last two leave it
  // its own value where there is no such lane.
  { thread.shuffle(x, i) } -> std::same_as<float>;
  { thread.shuffle_xor(y, i) } -> std::same_as<double>;
  { thread.shuffle_up(x, i) } -> std::same_as<float>;
  { thread.shuffle_down(i, i) } -> std::same_as<int>;
  { thread.any(true) } -> std::same_as<bool>;
  { thread.all(true) } -> std::same_as<bool>;
  { thread.ballot(true) } -> std::same_as<std::uint32_t>;  // bit l: lane l's

  // Vectors, from and to global and shared memory. load_streaming: global memory that is read once, past L1.
  { thread.template load<4>(constant) } -> std::same_as<Vector<float, 4>>;
  { thread.template load<4>(shared) } -> std::same_as<Vector<float, 4>>;
  { thread.template load_streaming<4>(constant) } -> std::same_as<Vector<float, 4>>;
  thread.store(global, vector);
  thread.store(shared, vector);

  // Shared memory: thread.template shared<Array>() gives a SharedPointer<Array::value_type> to [0]; Array is in the
  // kernel's SharedLayout. It adds like a pointer and is indexed like one.
  { shared + i } -> std::same_as<typename Thread::template SharedPointer<float>>;
  shared[i] = x;
  shared[i] += x;
  { static_cast<float>(shared[i]) } -> std::same_as<float>;

  // Atomic addition of float, double, int or unsigned; returns what was there.
  { thread.atomic_add(global, x) } -> std::same_as<float>;
  { thread.atomic_add(shared, x) } -> std::same_as<float>;

  // Asynchronous copies of N elements (4, 8 or 16 bytes) from global to shared memory: those that a thread issued since
  // its last commit are a group, and wait<n> waits until at most the n latest groups are under way. Elements from
  // `valid` on are zeros, and not read. They are visible to the thread after its wait, to others after a barrier then.
  thread.template copy_async<4>(shared, constant);
  thread.template copy_async<4>(shared, constant, i);
  thread.copy_async_commit();
  thread.template copy_async_wait<0>();

  // Tensor cores: c += a b; ldmatrix of 1, 2 or 4 matrices of 8 × 8 16-bit elements: lane 8j + r gives the address of
  // row r of matrix j; lane l gets in register j, of that matrix, row l/4, columns 2(l%4) and the next (transposed:
  // column l/4, rows 2(l%4) and the next).
  thread.mma(c, a, b);
  thread.mma(c, a16, b16);
  thread.load_matrices(registers, matrix);
  thread.load_matrices_transposed(registers, matrix);
};

}  // namespace xlstm::cuda
