// expect: xlstm: a cell's policy lacks something that MLSTMPolicy has; derive it from xlstm::MLSTMPolicy
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cell/mlstm.hpp"

struct Mine {
  using GateCap = xlstm::NoSoftCap;
};
constexpr xlstm::Index size = xlstm::MLSTMCell<1, 4, 4, Mine>::state_size;
