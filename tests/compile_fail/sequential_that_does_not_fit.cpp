// expect: xlstm: in Sequential<…> a module must take as many features as the one before it gives
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/sequential.hpp"

constexpr xlstm::Index size = xlstm::Sequential<xlstm::Linear<8, 6>, xlstm::Linear<8, 6>>::state_size;
