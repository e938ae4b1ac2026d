// SPDX-License-Identifier: Apache-2.0
#include "xlstm/train/metrics.hpp"

#include <cmath>

#include "../io/temporary_directory.hpp"
#include "catch.hpp"

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
