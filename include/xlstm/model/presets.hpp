// SPDX-License-Identifier: Apache-2.0
// The published model and the sizes of the scaling-law runs (xLSTM Scaling Laws, arXiv 2510.02228).
#pragma once

#include <array>
#include <string_view>

#include "xlstm/model/config.hpp"

namespace xlstm::presets {

/// The family of the scaling-law runs: vocabulary 50304, qk factor 0.5, v factor 1, ffn factor 2.667 rounded to 64.
constexpr ModelConfig family(Index embedding_dim, Index num_blocks, Index num_heads) {
  return {.vocab_size = 50304, .embedding_dim = embedding_dim, .num_blocks = num_blocks, .num_heads = num_heads};
}

inline constexpr ModelConfig xlstm_100m = family(640, 10, 5);
inline constexpr ModelConfig xlstm_160m = family(768, 12, 6);
inline constexpr ModelConfig xlstm_200m = family(896, 12, 7);
inline constexpr ModelConfig xlstm_400m = family(1024, 24, 4);
inline constexpr ModelConfig xlstm_600m = family(1280, 24, 5);
inline constexpr ModelConfig xlstm_830m = family(1536, 24, 6);
inline constexpr ModelConfig xlstm_1_1b = family(1792, 24, 7);
inline constexpr ModelConfig xlstm_1_4b = family(2048, 24, 8);
inline constexpr ModelConfig xlstm_1_8b = family(2304, 24, 9);
inline constexpr ModelConfig xlstm_2_7b = family(2560, 32, 5);
inline constexpr ModelConfig xlstm_3_1b = family(2816, 30, 11);
inline constexpr ModelConfig xlstm_3_7b = family(3072, 30, 12);
inline constexpr ModelConfig xlstm_4_5b = family(3328, 32, 13);
inline constexpr ModelConfig xlstm_5_5b = family(3584, 32, 14);
inline constexpr ModelConfig xlstm_7b = family(4096, 32, 8);
inline constexpr ModelConfig xlstm_13b = family(5120, 40, 10);

struct Preset {
  std::string_view name;
  ModelConfig config;
};

/// Every preset with the name that the programs take.
inline constexpr std::array<Preset, 16> all = {{
    {"100M", xlstm_100m},
    {"160M", xlstm_160m},
    {"200M", xlstm_200m},
    {"400M", xlstm_400m},
    {"600M", xlstm_600m},
    {"830M", xlstm_830m},
    {"1.1B", xlstm_1_1b},
    {"1.4B", xlstm_1_4b},
    {"1.8B", xlstm_1_8b},
    {"2.7B", xlstm_2_7b},
    {"3.1B", xlstm_3_1b},
    {"3.7B", xlstm_3_7b},
    {"4.5B", xlstm_4_5b},
    {"5.5B", xlstm_5_5b},
    {"7B", xlstm_7b},
    {"13B", xlstm_13b},
}};

}  // namespace xlstm::presets
