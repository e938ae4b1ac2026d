// expect: xlstm: a layer's policy lacks something that MLSTMLayerPolicy has; derive it from xlstm::MLSTMLayerPolicy
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/nn/mlstm_layer.hpp"

struct Mine : xlstm::MLSTMPolicy {
  using GateCap = xlstm::NoSoftCap;
};
constexpr xlstm::Index size = xlstm::MLSTMLayer<8, xlstm::Heads<1, 4, 4>, Mine>::state_size;
