// SPDX-License-Identifier: Apache-2.0
// The sizes that the kernels of the chunkwise mLSTM are cut by, apart from their text. A program's own are a type that
// derives from one of these: `struct Mine : xlstm::cuda::MLSTMChunkwiseTuning { static constexpr int … };`, for
// cuda::Backend<T, cuda::Runtime, Mine>. Without one, each device gets its own (MLSTMChunkwiseTunings).
//
// A smaller chunk costs memory and traffic for states (Q·V values each), a larger one products inside the chunk: the
// operations are least near L = √(2QV) tokens, and the states' traffic asks for more (TFLA, arXiv 2503.14376, §4).
#pragma once

#include <type_traits>

#include "xlstm/core/element.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/core/index.hpp"

namespace xlstm::cuda {

/// For sm_80, and wherever nothing else is said.
struct MLSTMChunkwiseTuning {
  static constexpr Index chunk_size = 256;  ///< where Run::chunk_size doesn't say

  /// Whether a training run's forward pass keeps C, n, m before each chunk, and the gates' sums, for its backward pass,
  /// which else makes them again: 2 bytes (fp32 and f16: 4) for each of B · H · Q · V and chunk, of every layer at a
  /// time.
  static constexpr bool keep_states = false;

  static constexpr int gate_threads = 128;

  static constexpr int state_threads = 128;
  static constexpr int state_row_tiles = 2;  ///< of 16 rows of C, a warp's; the warps of a block have different rows
  static constexpr int state_columns = 32;   ///< of C, a block's; with 64, registers are spilt
  static constexpr int state_tokens = 64;    ///< whose keys and values are in shared memory at once

  static constexpr int output_threads = 128;  ///< a warp has 16 tokens
  static constexpr int output_columns = 128;  ///< of h, a block's
  static constexpr int output_keys = 64;      ///< tokens whose keys and values are in shared memory at once
  static constexpr int output_depth = 64;     ///< of Q, in shared memory at once

  static constexpr int gradient_threads = 128;  ///< a warp has 16 tokens
  static constexpr int gradient_columns = 128;  ///< of δq, δk or δv, a block's; half as many of f16
  static constexpr int gradient_others = 32;    ///< tokens that a block's are multiplied with at once
  static constexpr int gradient_depth = 64;     ///< of Q and V, in shared memory at once
};

/// For sm_90a.
struct MLSTMChunkwiseTuning90 : MLSTMChunkwiseTuning {
  static constexpr int state_columns = 64;
};
/// For sm_100.
struct MLSTMChunkwiseTuning100 : MLSTMChunkwiseTuning {
  static constexpr int state_columns = 64;
};

/// Each device's own: the last of the above that is not newer than the device, among those that code is compiled for.
struct MLSTMChunkwiseTunings {};

namespace detail {
/// Whether code is compiled for an architecture from `first` to before `end`, as nvcc numbers them (800, 900, …). nvcc
/// says for which it is, on the host's side too; for every other compiler it is all.
constexpr bool compiled_for([[maybe_unused]] int first, [[maybe_unused]] int end) {
#if defined(__CUDA_ARCH_LIST__)
  for (const int architecture : {__CUDA_ARCH_LIST__}) {
    if (architecture >= first && architecture < end) return true;
  }
  return false;
#else
  return true;
#endif
}
}  // namespace detail

/// Calls use.template operator()<T>() with the tuning for a device of a compute capability (80 for 8.0): with `Tuning`
/// itself, or, if that is MLSTMChunkwiseTunings, with the one of them. Error if code is compiled for newer ones only.
template <class Tuning, class F>
void with_chunkwise_tuning([[maybe_unused]] int compute_capability, F&& use) {
  if constexpr (!std::is_same_v<Tuning, MLSTMChunkwiseTunings>) {
    use.template operator()<Tuning>();
  } else {
    if constexpr (detail::compiled_for(1000, 100000)) {
      if (compute_capability >= 100) return use.template operator()<MLSTMChunkwiseTuning100>();
    }
    if constexpr (detail::compiled_for(900, 1000)) {
      if (compute_capability >= 90) return use.template operator()<MLSTMChunkwiseTuning90>();
    }
    if constexpr (detail::compiled_for(0, 900)) {
      use.template operator()<MLSTMChunkwiseTuning>();
    } else {
      fail("cuda: nothing was compiled for a device of compute capability ", compute_capability / 10, ".",
           compute_capability % 10);
    }
  }
}

/// How the states between chunks are kept for inputs of T. f16 has too few exponents for a sum over all tokens.
template <class T>
using MLSTMChunkState = std::conditional_t<std::is_same_v<T, bf16>, bf16, float>;

}  // namespace xlstm::cuda
