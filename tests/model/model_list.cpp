// SPDX-License-Identifier: Apache-2.0
#include "xlstm/model/model_list.hpp"

#include <set>
#include <string_view>

#include "catch.hpp"
#include "xlstm/compiled_models.hpp"
#include "xlstm/model/presets.hpp"

namespace {

constexpr xlstm::ModelConfig small = {.vocab_size = 10, .embedding_dim = 8, .num_blocks = 1, .num_heads = 2};
constexpr xlstm::ModelConfig biased = {
    .vocab_size = 10, .embedding_dim = 8, .num_blocks = 1, .num_heads = 2, .use_bias = true};
constexpr xlstm::ModelConfig small_in_chunks_of_16 = {
    .vocab_size = 10, .embedding_dim = 8, .num_blocks = 1, .num_heads = 2, .chunk_size = 16};

using Models = xlstm::ModelList<xlstm::NamedConfig<"small", small>, xlstm::NamedConfig<"biased", biased>,
                                xlstm::NamedConfig<"the small one again", small_in_chunks_of_16>>;

struct Visitor {
  xlstm::ModelConfig seen{};
  int calls = 0;

  template <xlstm::ModelConfig Config>
  void operator()() {
    static_assert(Config.chunk_size == 64, "the entry that repeats a model must not be compiled");
    seen = Config;
    ++calls;
  }
};

}  // namespace

TEST_CASE("A model list knows its names and configurations in order") {
  CHECK(Models::size == 3);
  CHECK(Models::names[0] == "small");
  CHECK(Models::names[2] == "the small one again");
  CHECK(Models::configs[1] == biased);
  CHECK(xlstm::ModelList<>::size == 0);
}

TEST_CASE("dispatch calls the visitor with the equal entry, as a constant") {
  Visitor visitor;
  CHECK(xlstm::dispatch<Models>(biased, visitor));
  CHECK(visitor.calls == 1);
  CHECK(visitor.seen == biased);
}

TEST_CASE("dispatch takes a temporary visitor") {
  int calls = 0;
  CHECK(xlstm::dispatch<Models>(small, [&calls]<xlstm::ModelConfig Config>() { calls += Config == small; }));
  CHECK(calls == 1);
}

TEST_CASE("dispatch says false for a model that is not in the list, and calls nothing") {
  Visitor visitor;
  xlstm::ModelConfig other = small;
  other.norm_eps = 1e-5;
  CHECK_FALSE(xlstm::dispatch<Models>(other, visitor));
  CHECK_FALSE(xlstm::dispatch<xlstm::ModelList<>>(small, visitor));
  CHECK(visitor.calls == 0);
}

TEST_CASE("chunk_size changes no result: it is not compared, and models that differ in it alone are compiled once") {
  Visitor visitor;
  xlstm::ModelConfig wanted = small;
  wanted.chunk_size = 128;
  CHECK(xlstm::dispatch<Models>(wanted, visitor));
  CHECK(visitor.calls == 1);
  CHECK(visitor.seen == small);
}

TEST_CASE("Factors are compared by the widths that they lead to") {
  xlstm::ModelConfig original_export = xlstm::presets::xlstm_7b;
  original_export.ffn_proj_factor = 2.6667;  // 10944, as with 2.667
  CHECK(xlstm::same_model(original_export, xlstm::presets::xlstm_7b));
  original_export.ffn_round_up_to_multiple_of = 1;  // 10922
  CHECK_FALSE(xlstm::same_model(original_export, xlstm::presets::xlstm_7b));
  original_export.qk_dim_factor = 0.25;
  CHECK_FALSE(xlstm::same_model(xlstm::presets::xlstm_7b, original_export));
}

TEST_CASE("CMake turns the reference checkpoints into a model list") {
  using List = xlstm::compiled::Models;
  const std::set<std::string_view> names(List::names.begin(), List::names.end());
  CHECK(names == std::set<std::string_view>{"fused-bias-f16", "odd-sizes-f32", "sharded-bf16", "tiny-f32"});

  const xlstm::ModelConfig odd = {.vocab_size = 397,
                                  .embedding_dim = 96,
                                  .num_blocks = 2,
                                  .num_heads = 3,
                                  .norm_eps = 1e-5,
                                  .qk_dim_factor = 0.25,
                                  .v_dim_factor = 0.5,
                                  .ffn_proj_factor = 1.7,
                                  .ffn_round_up_to_multiple_of = 8,
                                  .gate_soft_cap = 7.0,
                                  .output_logit_soft_cap = 11.0};
  Visitor visitor;
  CHECK(xlstm::dispatch<List>(odd, visitor));
  CHECK(visitor.seen == odd);

  const xlstm::ModelConfig fused = {
      .vocab_size = 512, .embedding_dim = 64, .num_blocks = 2, .num_heads = 4, .use_bias = true};
  CHECK(xlstm::dispatch<List>(fused, visitor));
  CHECK_FALSE(xlstm::dispatch<List>(xlstm::presets::xlstm_7b, visitor));
}
