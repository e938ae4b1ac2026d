// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/export_checkpoint.hpp"

#include <cstring>

#include "../io/temporary_directory.hpp"
#include "catch.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/io/load.hpp"
#include "xlstm/model/architecture.hpp"
#include "xlstm/model/weights.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig config{
    .vocab_size = 19, .embedding_dim = 16, .num_blocks = 2, .num_heads = 2, .ffn_round_up_to_multiple_of = 8};
constexpr ModelConfig other_cap = [] {
  ModelConfig c = config;
  c.output_logit_soft_cap = 7;
  return c;
}();
using N = Network<config>;

template <class W>
Weights<N, cpu::Backend<W>> weights(std::uint64_t seed) {
  auto made = allocate_weights<N, cpu::Backend<W>>();
  initialize(made, seed);
  return made;
}

/// All values, as W.
template <class W>
std::vector<W> values(const std::filesystem::path& directory) {
  auto loaded = load_weights<N, cpu::Backend<W>>(Checkpoint::open(directory));
  std::vector<W> all;
  for_each_parameter<N>(loaded.parameters, [&](std::string_view, auto& handle, Initialization) {
    for (Index i = 0; i < handle.count; ++i) all.push_back(static_cast<W>(handle.data()[i]));
  });
  return all;
}
template <class W>
std::vector<W> values(const Weights<N, cpu::Backend<W>>& made) {
  std::vector<W> all;
  for_each_parameter<N>(made.parameters, [&](std::string_view, const auto& handle, Initialization) {
    for (Index i = 0; i < handle.count; ++i) all.push_back(static_cast<W>(handle.data()[i]));
  });
  return all;
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("an export is a checkpoint of the published format with the same bits") {
  const TemporaryDirectory directory;
  const auto made = weights<float>(1);
  TokenIds tokens;
  tokens.bos = 3;
  export_checkpoint<N>(directory / "new", made.parameters, config, tokens);
  CHECK(same_bits(values<float>(directory / "new"), values(made)));
  const Checkpoint checkpoint = Checkpoint::open(directory / "new");
  CHECK(checkpoint.config() == config);
  CHECK(checkpoint.tokens().bos == 3);
  CHECK(count_files(directory / "new") == 2);
}

TEST_CASE("weights in bf16 are exported as they are, those in fp32 rounded as asked, vectors never") {
  const TemporaryDirectory directory;
  const auto rounded = weights<bf16>(2);
  export_checkpoint<N>(directory / "bf16", rounded.parameters, config, {});
  CHECK(same_bits(values<bf16>(directory / "bf16"), values(rounded)));

  const auto made = weights<float>(2);
  export_checkpoint<N>(directory / "rounded", made.parameters, config, {}, DType::bf16);
  const io::SafetensorsFile file(directory / "rounded/model.safetensors");
  for (const auto& [name, tensor] : file.tensors()) {
    CHECK(tensor.type == (tensor.shape.size() == 2 ? io::SafetensorsType::bf16 : io::SafetensorsType::f32));
  }
}

TEST_CASE("an earlier export is replaced, other files stay") {
  const TemporaryDirectory directory;
  write_plainly(directory / "run.json", "{}");
  export_checkpoint<N>(directory.path(), weights<float>(1).parameters, config, {});
  for (const ModelConfig& next : {config, other_cap}) {
    const auto made = weights<float>(7);
    export_checkpoint<N>(directory.path(), made.parameters, next, {});
    const TemporaryDirectory fresh;
    export_checkpoint<N>(fresh.path(), made.parameters, next, {});
    CHECK(read_plainly(directory / "model.safetensors") == read_plainly(fresh / "model.safetensors"));
    CHECK(Checkpoint::open(directory.path()).config() == next);
    CHECK(count_files(directory.path()) == 3);
  }
  CHECK(read_plainly(directory / "run.json") == "{}");
}

TEST_CASE("an export that is impossible leaves what was there") {
  const TemporaryDirectory directory;
  const auto made = weights<float>(1);
  export_checkpoint<N>(directory.path(), made.parameters, config, {});
  {
    const FileSizeLimit full(1000);
    const std::string error =
        error_of([&] { export_checkpoint<N>(directory.path(), weights<float>(2).parameters, config, {}); });
    CHECK(error.find("cannot be written") != std::string::npos);
  }
  CHECK(same_bits(values<float>(directory.path()), values(made)));
  CHECK(count_files(directory.path()) == 2);

  std::filesystem::remove(directory / "model.safetensors");
  std::filesystem::create_directory(directory / "model.safetensors");
  const std::string before = read_plainly(directory / "config.json");
  const std::string error = error_of([&] { export_checkpoint<N>(directory.path(), made.parameters, other_cap, {}); });
  CHECK(error.find("cannot be replaced") != std::string::npos);
  CHECK(read_plainly(directory / "config.json") == before);
  CHECK(count_files(directory.path()) == 2);
}
