# The specification of cmake/XlstmModels.cmake's reader: what it makes of a configuration file, and what it says about
# a wrong one. Each wrong case runs in a CMake of its own, because an error ends it.
include("${CMAKE_CURRENT_LIST_DIR}/../cmake/XlstmModels.cmake")

if(CASE_FILE)
  _xlstm_read_config("${CASE_FILE}" initializer)
  message(STATUS "${initializer}")
  return()
endif()

function(read name content out)
  file(WRITE "${WORK}/${name}" "${content}")
  execute_process(COMMAND ${CMAKE_COMMAND} "-DCASE_FILE=${WORK}/${name}" -P "${CMAKE_CURRENT_FUNCTION_LIST_FILE}"
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  set(${out} "${output}" PARENT_SCOPE)
  set(status "${status}" PARENT_SCOPE)
endfunction()

function(expect_value name content expected)
  read(${name} "${content}" output)
  if(NOT status EQUAL 0 OR NOT output STREQUAL "-- ${expected} ")
    message(FATAL_ERROR "${content}\nexpected: ${expected}\nCMake says: ${output}")
  endif()
endfunction()

function(expect_error name content)
  read(${name} "${content}" output)
  if(status EQUAL 0)
    message(FATAL_ERROR "${content}\nwas accepted: ${output}")
  endif()
  foreach(part IN ITEMS "${name}" ${ARGN})
    string(FIND "${output}" "${part}" position)
    if(position EQUAL -1)
      message(FATAL_ERROR "${content}\nexpected an error that says: ${part}\nCMake says: ${output}")
    endif()
  endforeach()
endfunction()

set(sizes [["vocab_size": 5, "embedding_dim": 8, "num_blocks": 1, "num_heads": 2]])
set(read_sizes ".vocab_size = 5, .embedding_dim = 8, .num_blocks = 1, .num_heads = 2")

# Missing keys keep the defaults of xlstm::ModelConfig, unknown keys are ignored.
expect_value(plain.json "{${sizes}, \"architectures\": [1, {}]}" "${read_sizes}")
# Both names of a size are known.
expect_value(names.json [[{"vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2}]] "${read_sizes}")
expect_value(both.json "{${sizes}, \"hidden_size\": 8, \"num_hidden_layers\": null}" "${read_sizes}")
# A null soft cap is none.
expect_value(caps.json "{${sizes}, \"gate_soft_cap\": null, \"output_logit_soft_cap\": 30}"
  "${read_sizes}, .gate_soft_cap = 0, .output_logit_soft_cap = 30")
expect_value(flags.json "{${sizes}, \"use_bias\": true, \"tie_word_embeddings\": false}"
  "${read_sizes}, .use_bias = true, .tie_word_embeddings = false")
# The original export's YAML.
expect_value(plain.yaml
  "# sizes\nvocab_size: 5\nembedding_dim: 8 # D\nnum_blocks: 1\nnum_heads: 2\nnorm_eps: 1e-6\nuse_bias: false\ngate_soft_cap: null\nnested:\n  num_heads: 7\nmode: train\n"
  "${read_sizes}, .use_bias = false, .norm_eps = 1e-6, .ffn_proj_factor = 2.6667, .gate_soft_cap = 0")
# Variants of the cell, which only configurations written by this library name.
expect_value(variants.json "{${sizes}, \"input_gate\": \"sigmoid\", \"normalizer\": \"none\"}"
  "${read_sizes}, .input_gate = xlstm::InputGate::sigmoid, .normalizer = xlstm::Normalizer::none")

expect_error(broken.json "{\"vocab_size\": " "not JSON")
expect_error(list.json "[1]" "an object was expected")
expect_error(missing.json [[{"embedding_dim": 8, "num_blocks": 1, "num_heads": 2}]] "key vocab_size" "missing")
expect_error(disagree.json "{${sizes}, \"hidden_size\": 9}" "key hidden_size: 9" "embedding_dim says 8")
expect_error(zero.json [[{"vocab_size": 0}]] "key vocab_size: 0" "a whole number")
expect_error(negative.json [[{"vocab_size": -5}]] "key vocab_size: -5" "a whole number")
expect_error(huge.json [[{"vocab_size": 99999999999999999999999}]] "key vocab_size" "a whole number")
expect_error(fraction.json [[{"vocab_size": 5.5}]] "key vocab_size: 5.5" "a whole number")
expect_error(text.json "{${sizes}, \"use_bias\": \"yes\"}" "key use_bias: yes (STRING)" "true or false")
expect_error(code.json "{${sizes}, \"norm_eps\": \"1}; int x = {1\"}" "key norm_eps" "a positive number")
expect_error(cap.json "{${sizes}, \"gate_soft_cap\": -1}" "key gate_soft_cap: -1" "a positive number")
expect_error(eps.json "{${sizes}, \"norm_eps\": 0.0}" "key norm_eps: 0.0" "a positive number")
expect_error(gate.json "{${sizes}, \"input_gate\": \"relu\"}" "key input_gate: relu" "exponential or sigmoid")
expect_error(text.yaml "vocab_size: many\n" "key vocab_size: many (STRING)" "a whole number")
