// SPDX-License-Identifier: Apache-2.0
// What the compiler knows of a composition: everything here is a constant expression.
#include "xlstm/model/architecture.hpp"

#include "catch.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/counts.hpp"
#include "xlstm/model/presets.hpp"

using namespace xlstm;

namespace {

using F32 = cpu::Backend<float>;
using Bf16 = cpu::Backend<bf16>;

// The paper's text gives other sizes than its weights have; both must compose.
constexpr ModelConfig paper_text{.vocab_size = 50257,
                                 .embedding_dim = 4096,
                                 .num_blocks = 32,
                                 .num_heads = 8,
                                 .ffn_proj_factor = 2.66650390625,
                                 .ffn_round_up_to_multiple_of = 1};

/// A user's own module without flops(): counted by its weights.
template <Index D>
struct Halver {
  static constexpr Index input_dim = D, output_dim = D, state_size = 0;
  template <class B>
  struct Parameters {
    Weight<B, D, D> weight;
  };
  template <class P, class V>
  static constexpr void for_each_parameter(P& p, V&& visit) {
    visit("weight", p.weight, Initialization::small());
  }
};

}  // namespace

TEST_CASE("parameters of the published model") {
  STATIC_REQUIRE(parameter_count<Network<presets::xlstm_7b>, Bf16>() == 6'865'424'896);
  // fp32 vectors, bf16 matrices: norms and gate biases cost four bytes.
  STATIC_REQUIRE(weight_bytes<Network<presets::xlstm_7b>, Bf16>() ==
                 2 * 6'865'424'896 + 2 * (32 * (3 * 4096 + 16) + 4096));
  STATIC_REQUIRE(state_bytes<Network<presets::xlstm_7b>, Bf16>() == 32 * 8 * (256 * 512 + 256 + 1) * 4);
  STATIC_REQUIRE(Network<paper_text>::Blocks::count == 32);
  STATIC_REQUIRE(paper_text.ffn_dim() == 10922);
}

TEST_CASE("the feed-forward width keeps its product real before rounding up") {
  STATIC_REQUIRE(ModelConfig{.embedding_dim = 64, .ffn_proj_factor = 2.0078125}.ffn_dim() == 128);  // 128.5
  STATIC_REQUIRE(presets::xlstm_7b.ffn_dim() == 10944);
}

TEST_CASE("FLOPs of a decode step are twice the weights, and those of the cell") {
  constexpr double step = decode_flops<Network<presets::xlstm_7b>, Bf16>();
  constexpr double matrices = 2.0 * (6'865'424'896.0 - 50304.0 * 4096);
  STATIC_REQUIRE(step > matrices);
  // Per block and head 5·Q·(V+1) and a little; a percent on top for norms, gates and SwiGLU.
  STATIC_REQUIRE(step < 1.01 * (matrices + 32.0 * 8 * 5 * 256 * 513));
}

TEST_CASE("FLOPs of prefill grow linearly with the length, and a longer chunk costs more inside the chunk") {
  using N = Network<presets::xlstm_160m>;
  constexpr double one = prefill_flops<N, F32>(4096, 64);
  constexpr double two = prefill_flops<N, F32>(8192, 64);
  STATIC_REQUIRE(two > 1.98 * one);
  STATIC_REQUIRE(two < 2.0 * one);
  STATIC_REQUIRE(prefill_flops<N, F32>(4096, 256) > one);
}

TEST_CASE("custom compositions are counted too") {
  using Blocks = Repeat<3, Sequential<Residual<RMSNorm<8>, Halver<8>>, Residual<RMSNorm<8>, SwiGLU<8, 12>>>>;
  using Net = CausalLM<10, Blocks, RMSNorm<8>>;
  STATIC_REQUIRE(parameter_count<Net, F32>() == 3 * (8 + 64 + 8 + 3 * 96) + 8 + 2 * 80);
  STATIC_REQUIRE(flops<Halver<8>, F32>(Workload{5}) == 2.0 * 64 * 5);
}

TEST_CASE("a network has as many blocks as pairs of residual branches, however they are composed") {
  using Branch = Residual<RMSNorm<8>, SwiGLU<8, 12>>;
  using Block = Sequential<Residual<RMSNorm<8>, Halver<8>>, Branch>;
  STATIC_REQUIRE(CausalLM<10, Repeat<3, Block>, RMSNorm<8>>::num_blocks == 3);
  STATIC_REQUIRE(CausalLM<10, Named<"all", Repeat<3, Block>>, RMSNorm<8>>::num_blocks == 3);
  STATIC_REQUIRE(CausalLM<10, Sequential<Repeat<3, Block>, Block>, RMSNorm<8>>::num_blocks == 4);
  STATIC_REQUIRE(CausalLM<10, Repeat<2, Sequential<Named<"a", Block>, Named<"b", Block>>>, RMSNorm<8>>::num_blocks ==
                 4);
  STATIC_REQUIRE(CausalLM<10, Repeat<3, Branch>, RMSNorm<8>>::num_blocks == 2);
  STATIC_REQUIRE(CausalLM<10, Halver<8>, RMSNorm<8>>::num_blocks == 1);
  constexpr ModelConfig config{.vocab_size = 16, .embedding_dim = 32, .num_blocks = 5, .num_heads = 2};
  STATIC_REQUIRE(Network<config>::num_blocks == 5);
}

TEST_CASE("depth is a number, not a type: models of any depth share their block") {
  constexpr ModelConfig shallow{.vocab_size = 16, .embedding_dim = 32, .num_blocks = 1, .num_heads = 2};
  constexpr ModelConfig deep{.vocab_size = 16, .embedding_dim = 32, .num_blocks = 1000, .num_heads = 2};
  using Shallow = Network<shallow>::Blocks::Parameters<F32>;
  using Deep = Network<deep>::Blocks::Parameters<F32>;
  STATIC_REQUIRE(sizeof(Deep) == 1000 * sizeof(Shallow));
}
