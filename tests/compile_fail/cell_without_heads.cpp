// expect: xlstm: an mLSTM cell needs at least one head; set num_heads
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cell/mlstm.hpp"

constexpr xlstm::Index size = xlstm::MLSTMCell<0, 4, 4>::state_size;
