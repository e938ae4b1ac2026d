// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/plot.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include "../io/temporary_directory.hpp"
#include "catch.hpp"

using namespace xlstm;

namespace {

/// The loss of step s is 1/s.
std::vector<MetricsLine> run_of(Index steps) {
  std::vector<MetricsLine> lines;
  for (Index step = 1; step <= steps; ++step) {
    lines.push_back({step, {{"step", step}, {"loss", 1.0 / static_cast<double>(step)}, {"gradient_norm", 2}}});
  }
  return lines;
}

/// The points of a block of a plot's program.
std::vector<std::string> points(const std::string& script, const std::string& block) {
  std::istringstream text(script.substr(script.find('$' + block + " << end_of_data\n")));
  std::vector<std::string> lines;
  std::string line;
  std::getline(text, line);
  while (std::getline(text, line) && line != "end_of_data") lines.push_back(line);
  return lines;
}

/// Another PATH while it lives.
class Path {
 public:
  explicit Path(const std::string& path) : before_(std::getenv("PATH")) { ::setenv("PATH", path.c_str(), 1); }
  Path(const Path&) = delete;
  Path& operator=(const Path&) = delete;
  ~Path() { ::setenv("PATH", before_.c_str(), 1); }

 private:
  std::string before_;
};

}  // namespace

TEST_CASE("The plot's program holds the points and quotes its names") {
  std::vector<MetricsLine> lines = run_of(5);
  const std::string script = plot_script(lines, "it's");
  CHECK(script.find("title 'it''s'") != std::string::npos);
  CHECK(points(script, "loss") == std::vector<std::string>{"1 1", "2 0.5", "3 0.333333", "4 0.25", "5 0.2"});
  CHECK(points(script, "norm").size() == 5);
  CHECK(points(script, "validation").empty());
  CHECK(script.find("$validation with") == std::string::npos);
  lines[2].values["validation_loss"] = 7.5;
  CHECK(points(plot_script(lines, "a"), "validation") == std::vector<std::string>{"3 7.5"});
  CHECK(plot_script(lines, "a").find("$validation with") != std::string::npos);
}

TEST_CASE("What is no number is left out") {
  std::vector<MetricsLine> lines = run_of(3);
  lines[1].values["loss"] = nullptr;  // how a NaN is written
  CHECK(points(plot_script(lines, "a"), "loss") == std::vector<std::string>{"1 1", "3 0.333333"});
}

TEST_CASE("A long run is thinned to means of neighbours, up to its last step") {
  const auto thinned = points(plot_script(run_of(9001), "a"), "loss");
  CHECK(thinned.size() == 1801);  // by fives
  CHECK(thinned.front() == "5 0.456667");
  CHECK(thinned.back().starts_with("9001 "));
}

TEST_CASE("A plot is drawn, or a warning says why not") {
  const TemporaryDirectory directory;
  CHECK(draw_plot({}, directory / "p.svg", "").find("no metrics") != std::string::npos);
  const std::string warning = draw_plot(run_of(3), directory / "p.svg", "a run");
  if (warning.empty()) {
    CHECK(read_plainly(directory / "p.svg").find("<svg") != std::string::npos);
  } else {
    CHECK(warning.find("gnuplot") != std::string::npos);
  }
  CHECK(read_plainly(directory / "p.gnuplot") == plot_script(run_of(3), "a run"));
}

TEST_CASE("Without gnuplot there is a warning and the program stays") {
  const TemporaryDirectory directory;
  {
    const Path nowhere("/nowhere");
    CHECK(draw_plot(run_of(2), directory / "p.svg", "").find("gnuplot cannot be started") != std::string::npos);
  }
  CHECK(std::filesystem::exists(directory / "p.gnuplot"));
  CHECK_FALSE(std::filesystem::exists(directory / "p.svg"));
  CHECK(count_files(directory.path()) == 1);
}

TEST_CASE("A plot replaces the one before when gnuplot has ended well, and never by half") {
  const TemporaryDirectory directory;
  const Path path(directory.path().native() + ":" + std::getenv("PATH"));
  const auto draw_with = [&](const std::string& script) {
    write_plainly(directory / "gnuplot", "#!/bin/sh\n" + script);
    std::filesystem::permissions(directory / "gnuplot", std::filesystem::perms::owner_all);
    return draw_plot(run_of(2), directory / "p.svg", "");
  };
  CHECK(draw_with("echo '<svg></svg>'\n").empty());
  CHECK(read_plainly(directory / "p.svg") == "<svg></svg>\n");
  for (const char* failing : {"echo '<svg>'; exit 3\n", "echo '<svg>'; kill -9 $$\n"}) {
    CHECK(draw_with(failing).find("gnuplot failed on") != std::string::npos);
    CHECK(read_plainly(directory / "p.svg") == "<svg></svg>\n");
  }
  CHECK(count_files(directory.path()) == 3);  // gnuplot, its program, the plot
}

TEST_CASE("A directory that cannot be written is an error") {
  CHECK(error_of([] { draw_plot(run_of(2), "/nowhere/p.svg", ""); }).find("/nowhere") != std::string::npos);
}
