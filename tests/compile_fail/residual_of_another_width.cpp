// expect: xlstm: in Residual<Norm, Layer> the layer must give back as many features as come in
// SPDX-License-Identifier: Apache-2.0
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/residual.hpp"
#include "xlstm/nn/rms_norm.hpp"

constexpr xlstm::Index size = xlstm::Residual<xlstm::RMSNorm<8>, xlstm::Linear<8, 6>>::state_size;
