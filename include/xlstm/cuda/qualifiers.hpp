// SPDX-License-Identifier: Apache-2.0
// Where a function may run. Kernels and the functions that they call on a thread are XLSTM_DEVICE: for nvcc they are
// device code, for every other compiler ordinary functions, which testing::emulate runs. Functions of values alone are
// XLSTM_HOST_DEVICE. nvcc needs --expt-relaxed-constexpr, for the element types (core/element.hpp).
#pragma once

#if defined(__CUDACC__)
#define XLSTM_DEVICE __device__ __forceinline__
#define XLSTM_HOST_DEVICE __host__ __device__ __forceinline__
#define XLSTM_UNROLL _Pragma("unroll")
#else
#define XLSTM_DEVICE inline
#define XLSTM_HOST_DEVICE inline
/// Before a loop over registers: nvcc must unroll it, for else they would be memory.
#define XLSTM_UNROLL
#endif
