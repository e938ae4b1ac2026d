// SPDX-License-Identifier: Apache-2.0
// The mLSTM's forward operation on the CPU: the run's form picks the computation.
#pragma once

#include "xlstm/cell/mlstm.hpp"
#include "xlstm/core/arena.hpp"
#include "xlstm/core/executor.hpp"
#include "xlstm/core/run.hpp"
#include "xlstm/core/view.hpp"
#include "xlstm/cpu/chunk_products.hpp"
#include "xlstm/cpu/mlstm_chunkwise.hpp"
#include "xlstm/cpu/mlstm_recurrent.hpp"
#include "xlstm/cpu/mlstm_saved.hpp"
#include "xlstm/cpu/mlstm_tuning.hpp"

namespace xlstm::cpu {

/// h (rows, H·V) from `in`, in fp32. `state`: the states before the first token, replaced by those after the last;
/// null: zeros before, dropped after. Where run.training, `saved` is filled with memory of the arena that lives until
/// the caller releases it; all else is given back. The number of threads changes no bit of the result.
template <class Cell, class Precision = HighestPrecision, class Exec>
void mlstm(Exec& exec, Arena& arena, const Run& run, const MLSTMInput<const float, Cell>& in, StateSlots<float> state,
           MatrixView<float, Cell::v_width> h, MLSTMSaved<Cell>& saved) {
  static_assert(Executor<Exec>, "xlstm: the first argument runs tasks: an Executor such as cpu::ThreadPool");
  const Index chunk_size = mlstm_chunk_size<Cell>(run);
  const MLSTMSaved<Cell>* kept = nullptr;
  if (run.training) {
    saved = allocate_saved<Cell>(arena, run, chunk_size);
    kept = &saved;
  }
  if (run.form == Form::recurrent) return recurrent::forward<Cell>(exec, arena, run, in, state, h, kept);
  with_products<Cell, Precision>([&](auto products) {
    chunkwise::forward<Cell, decltype(products)>(exec, arena, run, chunk_size, in, state, h, kept);
  });
}

}  // namespace xlstm::cpu
