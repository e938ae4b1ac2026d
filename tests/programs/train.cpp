// SPDX-License-Identifier: Apache-2.0
// train when something is in its way: it says what, and nothing is lost. tests/programs/train_kill.sh kills it.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "programs/process.hpp"
#include "xlstm/io/directory_lock.hpp"

using programs::run;

namespace {

/// A directory with a text, and the flags of short runs.
struct Workplace {
  Workplace() {
    std::string lines;
    for (int i = 0; i < 200; ++i)
      lines += "Line " + std::to_string(i) + " is not line " + std::to_string(i * i) + ".\n";
    programs::write_file(text, lines);
  }
  std::vector<std::string> flags(const std::string& out, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"--out", directory / out};
    for (const char* file : {"config", "tokenizer"}) {
      all.insert(all.end(), {std::string("--") + file, programs::model_directory("tiny-f32") + "/" + file + ".json"});
    }
    all.insert(all.end(), {"--data", text, "--batch", "2", "--length", "24", "--threads", "1", "--sample-every", "0",
                           "--save-every", "4", "--progress-every", "1000"});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<std::string> resume(const std::string& out, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"--out", directory / out, "--resume"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string weights(const std::string& out) const {
    return programs::read_file(directory / (out + "/model.safetensors"));
  }

  TemporaryDirectory directory;
  std::string text = directory / "text.txt";
};

bool says(const programs::Result& result, const std::string& part) {
  return result.err.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("train: flags that do not fit a run are refused by name, and it goes on as before", "[programs]") {
  const Workplace at;
  REQUIRE(run("train", at.flags("run", {"--steps", "12", "--stop-after", "6"})).status == 0);
  const std::string other = at.directory / "other.txt";
  programs::write_file(other, programs::read_file(at.text) + "One line more.\n");
  for (const auto& [flag, value, reason] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"--weights", "bf16", "weights is \"bf16\", expected \"f32\""},
           {"--seed", "5", "seed is 5, expected 0"},
           {"--data", other, "data is another one"}}) {
    const auto refused = run("train", at.resume("run", {flag, value}));
    INFO(refused.err);
    CHECK(refused.status == 1);
    CHECK(says(refused, reason));
  }
  const auto resumed = run("train", at.resume("run"));
  REQUIRE(resumed.status == 0);
  CHECK(says(resumed, "tokens are there already"));
  REQUIRE(run("train", at.flags("whole", {"--steps", "12"})).status == 0);
  CHECK(at.weights("run") == at.weights("whole"));
}

TEST_CASE("train: a command that was wrong may be given again, mended, in the same directory", "[programs]") {
  const Workplace at;
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"--documents", "chapters"},
                                             {"--length", "100000"},
                                             {"--weights", "bf16", "--export", "f32"},
                                             {"--data", ""}}) {
    const auto refused = run("train", at.flags("run", wrong));
    INFO(refused.err);
    CHECK((refused.status == 1 || refused.status == 2));
  }
  CHECK(run("train", at.flags("run", {"--steps", "2"})).status == 0);
}

TEST_CASE("train: a directory with a model or with checkpoints is no place for another run", "[programs]") {
  const Workplace at;
  const auto nothing = run("train", at.resume("run"));
  CHECK(nothing.status == 1);
  CHECK(says(nothing, "run/run.json: there is no run to resume"));
  REQUIRE(run("train", at.flags("run", {"--steps", "2"})).status == 0);
  const std::string weights = at.weights("run");
  std::filesystem::remove(at.directory / "run/run.json");
  CHECK(says(run("train", at.flags("run")), "run/model.safetensors: is there already"));
  CHECK(at.weights("run") == weights);
  std::filesystem::remove(at.directory / "run/model.safetensors");
  CHECK(says(run("train", at.flags("run")), "run/checkpoints: the checkpoints of a run are there already"));
}

TEST_CASE("train: a run that is under way is left alone", "[programs]") {
  const Workplace at;
  REQUIRE(run("train", at.flags("run", {"--steps", "4", "--stop-after", "2"})).status == 0);
  {
    const xlstm::io::DirectoryLock somebody(at.directory / "run");
    const auto refused = run("train", at.resume("run"));
    CHECK(refused.status == 1);
    CHECK(says(refused, "run: another process is at work there"));
  }
  CHECK(run("train", at.resume("run")).status == 0);
}

TEST_CASE("train: a file that cannot grow is an error, says what is saved, and the run goes on from there",
          "[programs]") {
  const Workplace at;
  REQUIRE(run("train", at.flags("run", {"--steps", "16", "--stop-after", "8"})).status == 0);
  const auto newest = at.directory / "run/checkpoints/step-000000008.safetensors";
  const std::string before = programs::read_file(newest);
  {
    const FileSizeLimit full(1 << 20);  // metrics fit, a checkpoint does not
    const auto result = run("train", at.resume("run"));
    INFO(result.err);
    CHECK(result.status == 1);
    CHECK(says(result, "cannot be written"));
    CHECK(says(result, "step 8 is saved"));
  }
  CHECK(programs::read_file(newest) == before);
  REQUIRE(run("train", at.resume("run")).status == 0);
  REQUIRE(run("train", at.flags("whole", {"--steps", "16"})).status == 0);
  CHECK(at.weights("run") == at.weights("whole"));
}

TEST_CASE("train: a run whose checkpoints the disk cannot hold does not start", "[programs]") {
  const Workplace at;
  // As many checkpoints as megabytes are free: one of them takes 2.1 MB.
  const std::string megabytes = std::to_string(std::filesystem::space(at.directory.path()).available / 1000000);
  const auto refused = run("train", at.flags("run", {"--steps", "1000000000000", "--keep", megabytes}));
  INFO(refused.err);
  CHECK(refused.status == 1);
  CHECK(says(refused, "run/checkpoints: no room for "));
  CHECK(says(refused, " more checkpoints of 3 MB each: "));
  CHECK_FALSE(std::filesystem::exists(at.directory / "run/metrics.jsonl"));
  CHECK(run("train", at.resume("run", {"--steps", "4"})).status == 0);
}

TEST_CASE("train: a place that cannot be written, a text that is not there", "[programs]") {
  const Workplace at;
  const auto refused = run("train", at.flags("text.txt/run", {"--steps", "4"}));
  CHECK(refused.status == 1);
  CHECK(says(refused, "text.txt/run/checkpoints: cannot be created"));
  std::vector<std::string> flags = at.flags("run", {"--steps", "4"});
  std::filesystem::rename(at.text, at.text + ".elsewhere");
  CHECK(says(run("train", flags), "text.txt: cannot be opened"));
  std::filesystem::rename(at.text + ".elsewhere", at.text);
  CHECK(run("train", flags).status == 0);  // the same command again: there is no run yet that it could harm
}

TEST_CASE("train: a learning rate without sense ends the run and names causes", "[programs]") {
  const Workplace at;
  const auto result =
      run("train", at.flags("run", {"--steps", "60", "--learning-rate", "10", "--warmup", "0", "--weight-decay", "1e30",
                                    "--skip-above", "0", "--max-skips", "3"}));
  INFO(result.err);
  CHECK(result.status == 1);
  CHECK(says(result, "4 steps in a row were skipped"));
  CHECK(says(result, "expected a finite one. Likely causes: "));
  CHECK(says(result, "learning rate"));
}

TEST_CASE("train: weights in bf16 go on to the same bits, and are exported in bf16", "[programs]") {
  const Workplace at;
  REQUIRE(run("train", at.flags("whole", {"--steps", "12", "--weights", "bf16"})).status == 0);
  REQUIRE(run("train", at.flags("run", {"--steps", "12", "--weights", "bf16", "--stop-after", "5"})).status == 0);
  REQUIRE(run("train", at.resume("run")).status == 0);
  CHECK(at.weights("run") == at.weights("whole"));
  const auto inspected = run("inspect", {at.directory / "run", "--json"});
  REQUIRE(inspected.status == 0);
  const auto json = nlohmann::json::parse(inspected.out);
  CHECK(json["missing_or_wrong"].empty());
  CHECK(json["weight_bytes"].get<long>() < 3 * json["parameters"].get<long>());
}

TEST_CASE("train: Ctrl-C saves and leaves, and the run goes on to the same bits", "[programs]") {
  const Workplace at;
  const std::vector<std::string> steps = {"--steps", "4000", "--validate-every", "0"};
  const auto interrupted = run("train", at.flags("run", steps), {}, nullptr, [&] {
    const auto metrics = at.directory / "run/metrics.jsonl";
    for (int wait = 0; wait < 6000; ++wait) {
      if (std::filesystem::exists(metrics) && std::filesystem::file_size(metrics) > 0) return SIGINT;
      ::usleep(10000);
    }
    return SIGKILL;
  });
  INFO(interrupted.err);
  CHECK(interrupted.status == 128 + SIGINT);
  CHECK(says(interrupted, "and saved; go on with: train --resume --out "));
  CHECK(std::filesystem::exists(at.directory / "run/model.safetensors"));
  const auto metrics = programs::read_file(at.directory / "run/metrics.jsonl");
  const auto step = std::count(metrics.begin(), metrics.end(), '\n');
  REQUIRE(step < 3990);
  const std::string end = std::to_string(step + 3);
  REQUIRE(run("train", at.resume("run", {"--stop-after", "3"})).status == 0);
  std::vector<std::string> whole = at.flags("whole", steps);
  whole.insert(whole.end(), {"--stop-after", end});
  REQUIRE(run("train", whole).status == 0);
  CHECK(at.weights("run") == at.weights("whole"));
}
