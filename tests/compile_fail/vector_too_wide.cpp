// expect: xlstm: a vector of device memory has 1, 2, 4, 8 or 16 bytes
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/cuda/vector.hpp"

xlstm::cuda::Vector<float, 8> values;
