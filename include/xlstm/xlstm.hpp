// SPDX-License-Identifier: Apache-2.0
// xLSTM language models in C++: compose them at compile time, load published checkpoints, generate, train.
// This header is what composing, loading and generating need of the CMake targets that a program links: xlstm::core,
// and what xlstm::io and xlstm::text add (they define the macros below). Training (xlstm/train) and checks of one's own
// modules and kernels (xlstm/testing) are included by themselves.
#pragma once

#include "xlstm/cell/gates.hpp"
#include "xlstm/cell/mlstm.hpp"
#include "xlstm/cell/scan.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/generate/generation.hpp"
#include "xlstm/generate/sampler.hpp"
#include "xlstm/generate/session.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/causal_lm.hpp"
#include "xlstm/model/config.hpp"
#include "xlstm/model/counts.hpp"
#include "xlstm/model/model.hpp"
#include "xlstm/model/model_list.hpp"
#include "xlstm/model/presets.hpp"
#include "xlstm/nn/identity.hpp"
#include "xlstm/nn/linear.hpp"
#include "xlstm/nn/mlstm_layer.hpp"
#include "xlstm/nn/module.hpp"
#include "xlstm/nn/multihead_norm.hpp"
#include "xlstm/nn/named.hpp"
#include "xlstm/nn/repeat.hpp"
#include "xlstm/nn/residual.hpp"
#include "xlstm/nn/rms_norm.hpp"
#include "xlstm/nn/sequential.hpp"
#include "xlstm/nn/swiglu.hpp"
#include "xlstm/reference/backend.hpp"

#if defined(XLSTM_WITH_IO)
#include "xlstm/generate/session_file.hpp"
#include "xlstm/io/checkpoint.hpp"
#include "xlstm/io/checkpoint_writer.hpp"
#include "xlstm/io/load.hpp"
#endif

#if defined(XLSTM_WITH_TEXT)
#include "xlstm/text/stop_text.hpp"
#include "xlstm/text/stream_decoder.hpp"
#include "xlstm/text/tokenizer.hpp"
#endif
