// SPDX-License-Identifier: Apache-2.0
// Every function of a thread, and every kernel at the sizes of the 7B, or the nearest that shows its other paths: what
// scripts/kernels.sh compiles for each architecture, and what its table lists.
#pragma once

#include "every_function.hpp"
#include "own_policy.hpp"
#include "xlstm/cuda/cross_entropy.hpp"
#include "xlstm/cuda/elementwise.hpp"
#include "xlstm/cuda/embedding.hpp"
#include "xlstm/cuda/mlstm_chunkwise_backward.hpp"
#include "xlstm/cuda/mlstm_kept_states.hpp"
#include "xlstm/cuda/mlstm_step.hpp"
#include "xlstm/cuda/multihead_norm.hpp"
#include "xlstm/cuda/norm_backward.hpp"
#include "xlstm/cuda/optimizer.hpp"
#include "xlstm/cuda/quantized_linear.hpp"
#include "xlstm/cuda/rms_norm.hpp"
#include "xlstm/cuda/rms_norm_linear.hpp"
#include "xlstm/cuda/sampling.hpp"

namespace xlstm::tests {

template <class... Kernels>
struct KernelList {
  /// Calls `f.template operator()<K>()` for each.
  template <class F>
  static void for_each(F&& f) {
    (f.template operator()<Kernels>(), ...);
  }
};

using Cell7B = MLSTMCell<8, 256, 512>;
using OwnCell = MLSTMCell<8, 256, 512, OwnPolicy>;

using RowKernels = KernelList<cuda::RMSNormKernel<4096, bf16, float, bf16, 8>,    //
                              cuda::RMSNormKernel<4096, float, float, float, 8>,  //
                              cuda::RMSNormKernel<4095, bf16, bf16, bf16, 1>,     //
                              cuda::RMSNormLinearKernel<4096, 16, 2, 1, bf16, float, bf16, bf16, 8>,
                              cuda::RMSNormLinearKernel<4096, 16, 2, 4, bf16, float, bf16, bf16, 8>,
                              cuda::RMSNormLinearKernel<4096, 16, 2, 4, float, float, float, float, 8>,
                              cuda::RMSNormLinearKernel<5120, 20, 2, 2, f16, float, f16, f16, 8>,
                              cuda::RMSNormLinearKernel<4095, 15, 2, 4, bf16, float, bf16, bf16, 1>,
                              cuda::MultiHeadNormKernel<8, 4096, false, bf16, float, bf16, 8>,       //
                              cuda::MultiHeadNormKernel<8, 4096, true, bf16, float, bf16, 8>,        //
                              cuda::MultiHeadNormKernel<8, 4096, true, float, float, float, 8>,      //
                              cuda::MultiHeadNormKernel<1, 4095, true, bf16, float, bf16, 1>,        //
                              cuda::ElementwiseKernel<cuda::CopyFunction, float, bf16, 8>,           //
                              cuda::ElementwiseKernel<cuda::CopyFunction, f16, float, 8>,            //
                              cuda::ElementwiseKernel<cuda::AddFunction, bf16, bf16, 8>,             //
                              cuda::ElementwiseKernel<cuda::SwiGLUFunction, bf16, bf16, 8>,          //
                              cuda::ElementwiseKernel<cuda::SwiGLUFunction, float, float, 4>,        //
                              cuda::ElementwiseKernel<cuda::SwiGLUBackwardFunction, bf16, bf16, 8>,  //
                              cuda::ElementwiseKernel<cuda::SwiGLUBackwardFunction, f16, f16, 1>,    //
                              cuda::ElementwiseKernel<cuda::SoftCapFunction<SoftCap<30.0>>, float, float, 4>>;

using TrainingKernels =
    KernelList<cuda::EmbedKernel<4096, bf16, bf16, 8>,                                             //
               cuda::EmbedKernel<4095, float, float, 1>,                                           //
               cuda::EmbedBackwardKernel<4096, bf16, 8>,                                           //
               cuda::EmbedBackwardKernel<4096, float, 4>,                                          //
               cuda::NormBackwardKernel<1, 4096, cuda::NormKind::rms, false, bf16, float, 8>,      //
               cuda::NormBackwardKernel<1, 4096, cuda::NormKind::rms, false, float, float, 8>,     //
               cuda::NormBackwardKernel<8, 4096, cuda::NormKind::centred, false, bf16, float, 8>,  //
               cuda::NormBackwardKernel<8, 4096, cuda::NormKind::gated, false, bf16, float, 8>,    //
               cuda::NormBackwardKernel<8, 4096, cuda::NormKind::gated, false, float, float, 8>,   //
               cuda::NormBackwardKernel<4, 4096, cuda::NormKind::gated, true, bf16, float, 8>,     //
               cuda::NormBackwardKernel<1, 4095, cuda::NormKind::gated, true, f16, float, 1>,      //
               cuda::ColumnSumsKernel<bf16, 8>,                                                    //
               cuda::ColumnSumsKernel<float, 4>,                                                   //
               cuda::ColumnSumsKernel<float, 1>,                                                   //
               cuda::CrossEntropyKernel<SoftCap<30.0>, float, 4>,                                  //
               cuda::CrossEntropyKernel<SoftCap<30.0>, bf16, 8>,                                   //
               cuda::CrossEntropyKernel<NoSoftCap, float, 1>,                                      //
               cuda::LossSumKernel,                                                                //
               cuda::SquaresKernel<4>, cuda::SquaresKernel<1>, cuda::TotalKernel,                  //
               cuda::ElementwiseKernel<cuda::AdamWFunction, float, float, 4>>;

using CellKernels = KernelList<cuda::MLSTMStepKernel<Cell7B, bf16, float, bf16, 4>,         //
                               cuda::MLSTMStepKernel<Cell7B, float, float, float, 1>,       //
                               cuda::MLSTMStepKernel<OwnCell, bf16, float, bf16, 4>,        //
                               cuda::MLSTMGateScanKernel<Cell7B, float, bf16>,              //
                               cuda::MLSTMChunkStatesKernel<Cell7B, bf16, bf16, 8>,         //
                               cuda::MLSTMChunkStatesKernel<Cell7B, f16, float, 8>,         //
                               cuda::MLSTMChunkStatesKernel<Cell7B, float, float, 4>,       //
                               cuda::MLSTMChunkOutputsKernel<Cell7B, bf16, bf16, bf16, 8>,  //
                               cuda::MLSTMChunkOutputsKernel<Cell7B, f16, f16, float, 8>,   //
                               cuda::MLSTMChunkOutputsKernel<Cell7B, float, float, float, 4>>;

template <class T, class S, int Width>
using CellGradientKernels =
    KernelList<cuda::MLSTMTokenGradientsKernel<Cell7B, T, S>,                                  //
               cuda::MLSTMBackwardStatesKernel<Cell7B, T, S, Width>,                           //
               cuda::MLSTMChunkGradientsKernel<Cell7B, T, S, cuda::GradientOf::query, Width>,  //
               cuda::MLSTMChunkGradientsKernel<Cell7B, T, S, cuda::GradientOf::key, Width>,    //
               cuda::MLSTMChunkGradientsKernel<Cell7B, T, S, cuda::GradientOf::value, Width>>;
using GateGradientKernels = KernelList<cuda::MLSTMGateGradientsKernel<Cell7B, float, bf16>,
                                       cuda::MLSTMGateGradientsKernel<OwnCell, float, float>, cuda::KeptStatesKernel>;
using QuantizedKernels = KernelList<cuda::QuantizedLinearKernel<int8, bf16, bf16, 1>,    //
                                    cuda::QuantizedLinearKernel<int8, bf16, bf16, 4>,    //
                                    cuda::QuantizedLinearKernel<int8, bf16, float, 16>,  //
                                    cuda::QuantizedLinearKernel<int4, bf16, bf16, 1>,    //
                                    cuda::QuantizedLinearKernel<int4, f16, f16, 2>,      //
                                    cuda::QuantizedLinearKernel<int4, float, float, 8>,  //
                                    cuda::QuantizedLinearKernel<int4, bf16, bf16, 16>,   //
                                    cuda::DequantizeKernel<int8, bf16>,                  //
                                    cuda::DequantizeKernel<int4, float>>;

using SamplingKernels = KernelList<cuda::ScoresKernel, cuda::DrawKernel>;

/// With the sizes that another architecture than sm_80 has for them.
template <class Tuning, class T, class S, int Width, int GradientWidth>
using TunedKernels =
    KernelList<cuda::MLSTMGateScanKernel<Cell7B, float, S, Tuning>,
               cuda::MLSTMChunkStatesKernel<Cell7B, T, S, Width, Tuning>,
               cuda::MLSTMChunkOutputsKernel<Cell7B, T, T, S, Width, Tuning>,
               cuda::MLSTMBackwardStatesKernel<Cell7B, T, S, GradientWidth, Tuning>,
               cuda::MLSTMChunkGradientsKernel<Cell7B, T, S, cuda::GradientOf::query, GradientWidth, Tuning>,
               cuda::MLSTMChunkGradientsKernel<Cell7B, T, S, cuda::GradientOf::key, GradientWidth, Tuning>,
               cuda::MLSTMChunkGradientsKernel<Cell7B, T, S, cuda::GradientOf::value, GradientWidth, Tuning>>;
template <class Tuning>
struct AllTunedKernels {
  template <class F>
  static void for_each(F&& f) {
    TunedKernels<Tuning, bf16, bf16, 8, 8>::for_each(f);
    TunedKernels<Tuning, f16, float, 8, 4>::for_each(f);
    TunedKernels<Tuning, float, float, 4, 4>::for_each(f);
  }
};

/// XLSTM_ARCHITECTURE: the one that the list is for (scripts/kernels.sh).
struct AllKernels {
  template <class F>
  static void for_each(F&& f) {
    KernelList<EveryFunction>::for_each(f);
    RowKernels::for_each(f);
    TrainingKernels::for_each(f);
    CellKernels::for_each(f);
    CellGradientKernels<bf16, bf16, 8>::for_each(f);
    CellGradientKernels<f16, float, 4>::for_each(f);
    CellGradientKernels<float, float, 4>::for_each(f);
    GateGradientKernels::for_each(f);
    QuantizedKernels::for_each(f);
    SamplingKernels::for_each(f);
#if XLSTM_ARCHITECTURE >= 100
    AllTunedKernels<cuda::MLSTMChunkwiseTuning100>::for_each(f);
#elif XLSTM_ARCHITECTURE >= 90
    AllTunedKernels<cuda::MLSTMChunkwiseTuning90>::for_each(f);
#endif
  }
};

}  // namespace xlstm::tests
