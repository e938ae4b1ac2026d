// SPDX-License-Identifier: Apache-2.0
// The README's program: one model's sizes, compiled in.
#include <string>

#include "programs/process.hpp"

using programs::check_refused;
using programs::model_directory;
using programs::run;

TEST_CASE("embed writes what generate does, with the model that it was compiled for alone", "[programs]") {
  const std::string compiled = XLSTM_TEST_EMBEDDED_MODEL;  // the build's first; none of these where it names others
  const std::string prompt = "東京 is";
  for (const std::string& model : programs::reference_models) {
    INFO(model);
    const std::string directory = model_directory(model);
    const auto result = run("embed", {directory, prompt});
    if (model != compiled) {
      check_refused(result, 1, directory + ": the checkpoint is not of the compiled size");
      continue;
    }
    CHECK(result.status == 0);
    CHECK(result.err.empty());
    const auto expected = run("generate", {"--model", directory, "--prompt", prompt, "--max-tokens", "50"});
    CHECK(!expected.out.empty());
    CHECK(result.out == expected.out + "\n");
  }
}

TEST_CASE("embed says how it is used, and what is missing", "[programs]") {
  check_refused(run("embed", {}), 2, "usage: embed DIR TEXT");
  check_refused(run("embed", {"a"}), 2, "usage: embed DIR TEXT");
  check_refused(run("embed", {"a", "b", "c"}), 2, "usage: embed DIR TEXT");
  check_refused(run("embed", {"no/such/place", "text"}), 1, "no/such/place");
}
