// SPDX-License-Identifier: Apache-2.0
// What run time knows of a configuration is what the compiler knows of its network.
#include "xlstm/model/published_tensors.hpp"

#include <string>
#include <vector>

#include "catch.hpp"
#include "model/reference_models.hpp"
#include "xlstm/core/error.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/counts.hpp"
#include "xlstm/model/presets.hpp"

namespace {

using xlstm::Index;
using xlstm::Initialization;
using xlstm::ModelConfig;

constexpr ModelConfig tied{.vocab_size = 31,
                           .embedding_dim = 24,
                           .num_blocks = 3,
                           .num_heads = 2,
                           .use_bias = true,
                           .add_out_norm = false,
                           .ffn_proj_factor = 1.3,
                           .ffn_round_up_to_multiple_of = 1,
                           .gate_soft_cap = 0,
                           .tie_word_embeddings = true,
                           .chunk_size = 16};

template <ModelConfig config>
void check() {
  using Network = xlstm::Network<config>;
  using B = xlstm::cpu::Backend<float>;
  const auto tensors = xlstm::published_tensors(config);

  std::size_t next = 0;
  Index parameters = 0;
  typename Network::template Parameters<B> handles{};
  xlstm::for_each_parameter<Network>(handles, [&](std::string_view name, auto& handle, Initialization start) {
    using Handle = std::remove_cvref_t<decltype(handle)>;
    REQUIRE(next < tensors.size());
    const xlstm::PublishedTensor& tensor = tensors[next++];
    CHECK(tensor.name == name);
    CHECK(tensor.shape ==
          (Handle::is_matrix ? std::vector<Index>{Handle::rows, Handle::cols} : std::vector<Index>{Handle::count}));
    CHECK(tensor.initialization.kind == start.kind);
    CHECK(tensor.initialization.first == start.first);
    CHECK(tensor.initialization.last == start.last);
    parameters += tensor.count();
  });
  CHECK(next == tensors.size());
  CHECK(parameters == (xlstm::parameter_count<Network, B>()));
  CHECK(xlstm::published_state_size(config) == Network::state_size);
  CHECK(xlstm::published_decode_flops(config) == Approx(xlstm::decode_flops<Network, B>()).epsilon(1e-12));
  for (const Index length : {Index{1}, Index{7}, Index{512}, Index{1000}}) {
    for (const Index chunk : {Index{0}, Index{1}, Index{64}, Index{4096}}) {
      CHECK(xlstm::published_prefill_flops(config, length, chunk) ==
            Approx(xlstm::prefill_flops<Network, B>(length, chunk)).epsilon(1e-12));
    }
  }
}

}  // namespace

TEST_CASE("tensors, sizes and FLOPs at run time are those at compile time", "[published_tensors]") {
  check<reference_models::tiny_f32>();
  check<reference_models::sharded_bf16>();
  check<reference_models::fused_bias_f16>();
  check<reference_models::odd_sizes_f32>();
  check<tied>();
  check<xlstm::presets::xlstm_7b>();
}

TEST_CASE("xLSTM-7B has 6,865,424,896 parameters", "[published_tensors]") {
  Index parameters = 0;
  for (const auto& tensor : xlstm::published_tensors(xlstm::presets::xlstm_7b)) parameters += tensor.count();
  CHECK(parameters == 6'865'424'896);
}

TEST_CASE("a number of blocks that nobody can mean is refused", "[published_tensors]") {
  ModelConfig config = reference_models::tiny_f32;
  config.num_blocks = 1'000'001;
  CHECK_THROWS_WITH(xlstm::published_tensors(config), Contains("num_blocks is 1000001"));
}
