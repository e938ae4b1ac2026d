// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/training_checkpoint.hpp"

#include <limits>

#include "../io/temporary_directory.hpp"
#include "catch.hpp"
#include "xlstm/cpu/backend.hpp"
#include "xlstm/model/architecture.hpp"

using namespace xlstm;

namespace {

constexpr ModelConfig tiny{
    .vocab_size = 23, .embedding_dim = 16, .num_blocks = 1, .num_heads = 2, .ffn_round_up_to_multiple_of = 16};
constexpr ModelConfig wider{
    .vocab_size = 23, .embedding_dim = 32, .num_blocks = 1, .num_heads = 2, .ffn_round_up_to_multiple_of = 16};
template <class W = float>
using TinyTrainer = Trainer<Network<tiny>, cpu::Backend<W>>;

BatchBuffer batch_of(std::uint64_t seed) {
  BatchBuffer batch(2, 8);
  Random random(seed);
  for (Index b = 0; b < 2; ++b) {
    for (auto& t : batch.tokens(b)) t = static_cast<Token>(random.below(23));
    for (std::size_t i = 0; i < 7; ++i) batch.targets(b)[i] = batch.tokens(b)[i + 1];
  }
  return batch;
}

template <class W>
std::string everything(TinyTrainer<W>& trainer) {
  std::string bytes;
  detail::for_each_training_tensor(trainer, [&](const std::string&, const auto&, auto& block, auto& handle) {
    const auto values = block.read(handle);
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  });
  return bytes;
}

template <class W>
RunState state_of(const TinyTrainer<W>& trainer) {
  return {trainer.counters(), {2, 17}, 1234, "length=8"};
}

}  // namespace

TEMPLATE_TEST_CASE("A run that is resumed is one that never stopped, to the bit", "", float, bf16) {
  const TemporaryDirectory directory;
  TinyTrainer<TestType> whole(1), first(1), second(99);
  for (std::uint64_t s = 0; s < 6; ++s) whole.train_step(batch_of(s).view(), 1e-2);
  for (std::uint64_t s = 0; s < 3; ++s) first.train_step(batch_of(s).view(), 1e-2);
  save_training(directory / "x", first, state_of(first));
  CHECK(load_training(directory / "x", second) == state_of(first));
  CHECK(second.counters() == first.counters());
  for (std::uint64_t s = 3; s < 6; ++s) second.train_step(batch_of(s).view(), 1e-2);
  CHECK(everything(second) == everything(whole));
  CHECK(second.evaluate(batch_of(7).view()).nll == whole.evaluate(batch_of(7).view()).nll);
}

TEST_CASE("Every damaged byte and every cut is noticed, and the trainer is left as it was") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1), other(2);
  save_training(directory / "x", trainer, state_of(trainer));
  const std::string good = read_plainly(directory / "x");
  const std::string before = everything(other);
  Random random(1);
  for (int i = 0; i < 300; ++i) {
    std::string bad = good;
    // the header byte by byte at first, then anywhere
    const std::size_t at = i < 150 ? static_cast<std::size_t>(8 + 7 * i) : random.below(good.size());
    bad[at] = static_cast<char>(bad[at] ^ (1 << random.below(7)));
    write_plainly(directory / "bad", bad);
    INFO("byte " << at);
    CHECK_FALSE(error_of([&] { load_training(directory / "bad", other); }).empty());
    CHECK(everything(other) == before);
  }
  for (int i = 0; i < 50; ++i) {
    write_plainly(directory / "bad", good.substr(0, random.below(good.size())));
    CHECK_FALSE(error_of([&] { load_training(directory / "bad", other); }).empty());
  }
  CHECK(everything(other) == before);
}

TEST_CASE("A checkpoint holds no accumulated batches, and one that is read replaces them") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1), other(2);
  save_training(directory / "x", trainer, state_of(trainer));
  other.accumulate(batch_of(1).view());
  CHECK(error_of([&] { save_training(directory / "y", other, state_of(other)); }) ==
        (directory / "y").string() +
            ": 1 accumulated batches, which a checkpoint does not hold; expected an update after them");
  CHECK_FALSE(std::filesystem::exists(directory / "y"));
  load_training(directory / "x", other);
  const auto next = batch_of(2);
  Batch going_on = next.view();
  going_on.continues = true;
  CHECK(other.train_step(going_on, 1e-2).gradient_norm == trainer.train_step(going_on, 1e-2).gradient_norm);
  const bool same = everything(other) == everything(trainer);
  CHECK(same);
}

TEST_CASE("A checkpoint of another network is refused") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1);
  save_training(directory / "x", trainer, state_of(trainer));
  Trainer<Network<wider>, cpu::Backend<float>> other(1);
  CHECK(error_of([&] { load_training(directory / "x", other); }).find("(23, 16), expected (23, 32)") !=
        std::string::npos);
}

TEST_CASE("The newest K stay; what a killed writer left goes") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1);
  TrainingCheckpoints checkpoints(directory / "run", 2);
  CHECK_FALSE(checkpoints.resume(trainer, {}));
  for (int i = 0; i < 4; ++i) {
    trainer.train_step(batch_of(1).view(), 1e-2);
    checkpoints.save(trainer, state_of(trainer));
    write_plainly(directory / "run/.step-000000001.safetensors.123.0.tmp", "x");
  }
  trainer.train_step(batch_of(1).view(), 1e-2);
  checkpoints.save(trainer, state_of(trainer));
  CHECK(checkpoints.list() == std::vector<std::filesystem::path>{directory / "run/step-000000005.safetensors",
                                                                 directory / "run/step-000000004.safetensors"});
  CHECK(count_files(directory / "run") == 2);
}

TEST_CASE("The one just written stays, whatever lies there of later steps") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1), other(2);
  for (const Index keep : {1, 2}) {
    TrainingCheckpoints checkpoints(directory / std::to_string(keep), keep);
    trainer.train_step(batch_of(1).view(), 1e-2);
    checkpoints.save(trainer, state_of(trainer));
    for (const Index step : {500, 900}) write_plainly(checkpoints.path_of(step), "damaged");
    trainer.train_step(batch_of(1).view(), 1e-2);
    checkpoints.save(trainer, state_of(trainer));
    const auto files = checkpoints.list();
    CHECK(static_cast<Index>(files.size()) == keep);
    CHECK(files.front() == checkpoints.path_of(trainer.counters().step));
    CHECK(checkpoints.resume(other, {}) == state_of(trainer));
  }
}

TEST_CASE("A directory that cannot be listed is an error, not one with nothing to resume") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1);
  write_plainly(directory / "file", "x");
  const TrainingCheckpoints file(directory / "file", 1);
  CHECK(error_of([&] { file.resume(trainer, {}); }).find("cannot be listed") != std::string::npos);
  const TrainingCheckpoints missing(directory / "missing", 1);
  CHECK_FALSE(missing.resume(trainer, {}));
}

TEST_CASE("Resuming takes the newest whole checkpoint and names those that are damaged") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1), other(2);
  TrainingCheckpoints checkpoints(directory.path(), 3);
  std::string at_2;
  for (int i = 1; i <= 3; ++i) {
    trainer.train_step(batch_of(1).view(), 1e-2);
    checkpoints.save(trainer, state_of(trainer));
    if (i == 2) at_2 = everything(trainer);
  }
  write_plainly(checkpoints.path_of(3), read_plainly(checkpoints.path_of(3)).substr(0, 5000));
  std::vector<std::string> warnings;
  const auto warn = [&](const std::string& text) { warnings.push_back(text); };
  CHECK(checkpoints.resume(other, warn)->counters.step == 2);
  CHECK(everything(other) == at_2);
  REQUIRE(warnings.size() == 1);
  CHECK(warnings[0].find("step-000000003") != std::string::npos);

  for (int i = 1; i <= 3; ++i) write_plainly(checkpoints.path_of(i), "nothing");
  CHECK(error_of([&] { checkpoints.resume(other, {}); }).find("none of 3") != std::string::npos);
}

TEST_CASE("A directory that cannot be written is an error, and what was there stays") {
  const TemporaryDirectory directory;
  TinyTrainer<> trainer(1);
  write_plainly(directory / "file", "x");
  TrainingCheckpoints checkpoints(directory / "file", 1);
  CHECK_FALSE(error_of([&] { checkpoints.save(trainer, state_of(trainer)); }).empty());
  CHECK(read_plainly(directory / "file") == "x");
  CHECK_FALSE(error_of([&] { TrainingCheckpoints(directory.path(), 0); }).empty());
  if (std::filesystem::exists("/dev/full")) {
    CHECK_FALSE(error_of([&] { save_training("/dev/full", trainer, state_of(trainer)); }).empty());
  }
}

TEST_CASE("A run needs room for the checkpoints that stay and the one being written, before it starts") {
  const TemporaryDirectory directory;
  const TrainingCheckpoints checkpoints(directory.path(), 3);
  const auto error = [&](Index saves, std::uintmax_t available) {
    return error_of([&] { checkpoints.require_space(2500000, saves, available); });
  };
  CHECK(error(100, 4 * 2500000).empty());
  CHECK(error(100, 4 * 2500000 - 1).find(": no room for 4 more checkpoints of 3 MB each: 9 MB are free") !=
        std::string::npos);
  CHECK(error(1, 2500000).empty());
  CHECK_FALSE(error(1, 2499999).empty());
  CHECK(error(3, 3 * 2500000).empty());  // the last one is beside two others
  CHECK(error(0, 0).empty());
  for (const Index step : {1, 2, 3, 4}) write_plainly(checkpoints.path_of(step), "");
  CHECK(error(100, 2500000).empty());  // they go as new ones come
  CHECK_FALSE(error(100, 2499999).empty());
  write_plainly(directory / ".step-000000005.safetensors.1.0.tmp", "of a writer that was killed");
  const TrainingCheckpoints many(directory.path(), std::numeric_limits<Index>::max());
  TinyTrainer<> trainer(1);
  CHECK(error_of([&] { many.require_space(trainer, 1); }).empty());
  CHECK_FALSE(std::filesystem::exists(directory / ".step-000000005.safetensors.1.0.tmp"));
  CHECK(error_of([&] { many.require_space(trainer, Index{1} << 50); }).find("no room") != std::string::npos);
  const TrainingCheckpoints not_there(directory / "not/yet", std::numeric_limits<Index>::max());
  CHECK(error_of([&] { not_there.require_space(trainer, 1); }).empty());
  CHECK(error_of([&] { not_there.require_space(trainer, Index{1} << 50); }).find("no room") != std::string::npos);
}
