// expect: xlstm: a repeated module must give back as many features as it takes
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/repeat.hpp"

constexpr xlstm::Index size = xlstm::Repeat<2, xlstm::Linear<8, 6>>::state_size;
