// SPDX-License-Identifier: Apache-2.0
// How large a composition is and how much it computes, known to the compiler for every network, a user's own too.
#pragma once

#include "xlstm/model/causal_lm.hpp"

namespace xlstm {

/// Parameters of a network. (xLSTM-7B: 6,865,424,896.)
template <class Network, class B>
constexpr Index parameter_count() {
  return count_parameters<Network, B>().total;
}

/// Bytes of the weights in the backend's storage.
template <class Network, class B>
constexpr Index weight_bytes() {
  return count_parameters<Network, B>().bytes;
}

/// Bytes of one sequence's recurrent state, whatever its length.
template <class Network, class B>
constexpr Index state_bytes() {
  return Network::state_size * static_cast<Index>(sizeof(typename B::State));
}

/// FLOPs of reading a prompt of `length` tokens chunkwise and making the logits of its last token.
template <class Network, class B>
constexpr double prefill_flops(Index length, Index chunk_size) {
  return Network::template flops<B>(Workload{length, chunk_size, false}, 1);
}

/// FLOPs of one decode step: one token in, its logits out.
template <class Network, class B>
constexpr double decode_flops() {
  return Network::template flops<B>(Workload{1, 1, true}, 1);
}

}  // namespace xlstm
