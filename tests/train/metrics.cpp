// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/metrics.hpp"

#include <cmath>

#include "../io/temporary_directory.hpp"
#include "catch.hpp"
#include "xlstm/train/plot.hpp"

using namespace xlstm;

TEST_CASE("A line a step") {
  const TemporaryDirectory directory;
  {
    MetricsWriter writer(directory / "m.jsonl", 0);
    writer.write({{"step", 1}, {"loss", 0.5}});
    writer.write({{"step", 2}, {"loss", NAN}, {"sample", "\xff"}});
  }
  CHECK(read_plainly(directory / "m.jsonl") ==
        "{\"loss\":0.5,\"step\":1}\n{\"loss\":null,\"sample\":\"\xef\xbf\xbd\",\"step\":2}\n");
  CHECK(read_metrics(directory / "m.jsonl", 100).size() == 2);
  CHECK(read_metrics(directory / "none", 100).empty());
}

TEST_CASE("A run that goes on cuts what came after its checkpoint, half lines too") {
  const TemporaryDirectory directory;
  const std::string whole = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";
  for (const char* end : {"", "{\"st", "{\"step\":4", "garbage\n{\"step\":4}\n"}) {
    write_plainly(directory / "m.jsonl", whole + end);
    MetricsWriter(directory / "m.jsonl", 2).write({{"step", 3}, {"again", true}});
    CHECK(read_plainly(directory / "m.jsonl") == "{\"step\":1}\n{\"step\":2}\n{\"again\":true,\"step\":3}\n");
  }
  write_plainly(directory / "m.jsonl", whole + "{\"st");
  MetricsWriter(directory / "m.jsonl", 9).write({{"step", 10}});
  CHECK(read_plainly(directory / "m.jsonl") == whole + "{\"step\":10}\n");
  MetricsWriter(directory / "m.jsonl", 0).write({{"step", 1}});
  CHECK(read_plainly(directory / "m.jsonl") == "{\"step\":1}\n");
}

TEST_CASE("A file that cannot be written is an error") {
  CHECK_FALSE(error_of([] { MetricsWriter("/nowhere/m.jsonl", 0); }).empty());
}

TEST_CASE("The plot's program holds the points and quotes its names") {
  std::vector<MetricsLine> lines;
  for (Index step = 1; step <= 5; ++step) {
    lines.push_back({step, {{"step", step}, {"loss", 1.0 / static_cast<double>(step)}, {"gradient_norm", 2}}});
  }
  const std::string script = plot_script(lines, "it's.svg", "it's");
  CHECK(script.find("set output 'it''s.svg'") != std::string::npos);
  CHECK(script.find("\n4 0.25\n") != std::string::npos);
  CHECK(script.find("$validation with") == std::string::npos);
  lines[2].values["validation_loss"] = 7.5;
  CHECK(plot_script(lines, "a.svg", "a").find("$validation << end_of_data\n3 7.5\n") != std::string::npos);
}

TEST_CASE("A plot is drawn, or a warning says why not") {
  const TemporaryDirectory directory;
  CHECK_FALSE(draw_plot({}, directory / "p.svg", "").empty());
  const std::vector<MetricsLine> lines = {{1, {{"step", 1}, {"loss", 3.0}, {"gradient_norm", 1.0}}},
                                          {2, {{"step", 2}, {"loss", 2.0}, {"gradient_norm", 1.5}}}};
  const std::string warning = draw_plot(lines, directory / "p.svg", "a run");
  if (warning.empty()) {
    CHECK(read_plainly(directory / "p.svg").find("<svg") != std::string::npos);
  } else {
    CHECK(warning.find("gnuplot") != std::string::npos);
  }
}
