// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <xlstm/model/model_list.hpp>
#include <xlstm/models/tiny.hpp>
#include <xlstm/xlstm.hpp>

xlstm::Index heads_without_rtti();
bool throws_without_rtti();

using Models = xlstm::ModelList<xlstm::NamedConfig<"tiny", tiny>>;

int main() {
  static_assert(tiny.vocab_size == 512 && tiny.num_blocks == 2 && tiny.v_head_dim() == 16);
  bool caught = false;
  try {
    caught = !throws_without_rtti();
  } catch (const xlstm::Error&) {
    caught = true;
  }
  const bool found = xlstm::dispatch<Models>(tiny, []<xlstm::ModelConfig>() {});
  std::printf("heads %td, error %s, model %s\n", heads_without_rtti(), caught ? "caught" : "lost",
              found ? "found" : "missing");
}
