# Checkpoints' configurations, read when CMake configures and handed to the compiler as values.
#
#   xlstm_add_model(<target> NAME <identifier> CHECKPOINT <directory>)
#
# gives the target the header xlstm/models/<identifier>.hpp with `inline constexpr xlstm::ModelConfig <identifier>`:
# the sizes in the directory's config.json (or in the config.yaml of the original export). CMake runs again when the
# file changes. What is wrong in the file stops the configuration and names the file and the key.

cmake_policy(PUSH)
cmake_policy(VERSION 3.22)

# The file of a checkpoint that holds its configuration.
function(_xlstm_config_file directory out)
  get_filename_component(directory "${directory}" ABSOLUTE BASE_DIR "${CMAKE_SOURCE_DIR}")
  foreach(name IN ITEMS config.json config.yaml)
    if(EXISTS "${directory}/${name}")
      set(${out} "${directory}/${name}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "xlstm: ${directory}: no config.json (or config.yaml) there; a checkpoint's directory was expected")
endfunction()

# The value of a key and its type (NUMBER, STRING, BOOLEAN, NULL, other, or empty where the key is missing).
function(_xlstm_config_value file text key value type)
  set(${value} "" PARENT_SCOPE)
  set(${type} "" PARENT_SCOPE)
  if(file MATCHES "\\.yaml$")
    if(NOT "\n${text}" MATCHES "\n${key}[ \t]*:[ \t]*([^\n#]*)")
      return()
    endif()
    string(STRIP "${CMAKE_MATCH_1}" found)
    string(TOLOWER "${found}" lower)
    set(${value} "${found}" PARENT_SCOPE)
    if(found MATCHES "^[-+]?[0-9]*\\.?[0-9]+([eE][-+]?[0-9]+)?$" OR found MATCHES "^[-+]?[0-9]+\\.([eE][-+]?[0-9]+)?$")
      set(${type} NUMBER PARENT_SCOPE)
    elseif(lower STREQUAL "true")
      set(${type} BOOLEAN PARENT_SCOPE)
      set(${value} ON PARENT_SCOPE)
    elseif(lower STREQUAL "false")
      set(${type} BOOLEAN PARENT_SCOPE)
      set(${value} OFF PARENT_SCOPE)
    elseif(lower MATCHES "^(null|~|)$")
      set(${type} NULL PARENT_SCOPE)
    else()
      set(${type} STRING PARENT_SCOPE)
    endif()
    return()
  endif()
  string(JSON found_type ERROR_VARIABLE error TYPE "${text}" "${key}")
  if(error)
    return()
  endif()
  string(JSON found ERROR_VARIABLE error GET "${text}" "${key}")
  set(${value} "${found}" PARENT_SCOPE)
  set(${type} "${found_type}" PARENT_SCOPE)
endfunction()

# The configuration in a file as the initialiser of an xlstm::ModelConfig.
function(_xlstm_read_config file out)
  # The fields of xlstm::ModelConfig that a configuration file may give, in the struct's order:
  # field, kind (size: positive integer; real: positive; cap: real, null or 0 for none; flag; or the enumeration's type and
  # its values, the first being the default), and the keys it goes by. The same rules as in xlstm/io/config.hpp.
  set(fields
    "vocab_size|size|vocab_size"
    "embedding_dim|size|embedding_dim,hidden_size"
    "num_blocks|size|num_blocks,num_hidden_layers"
    "num_heads|size|num_heads"
    "use_bias|flag|use_bias"
    "norm_eps|real|norm_eps"
    "eps|real|eps"
    "add_out_norm|flag|add_out_norm"
    "qk_dim_factor|real|qk_dim_factor"
    "v_dim_factor|real|v_dim_factor"
    "ffn_proj_factor|real|ffn_proj_factor"
    "ffn_round_up_to_multiple_of|size|ffn_round_up_to_multiple_of"
    "gate_soft_cap|cap|gate_soft_cap"
    "output_logit_soft_cap|cap|output_logit_soft_cap"
    "tie_word_embeddings|flag|tie_word_embeddings"
    "chunk_size|size|chunk_size"
    "input_gate|InputGate:exponential,sigmoid|input_gate"
    "normalizer|Normalizer:max_abs,none|normalizer")
  set(required vocab_size embedding_dim num_blocks num_heads)

  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  file(READ "${file}" text)
  if(file MATCHES "\\.json$")
    string(JSON kind ERROR_VARIABLE error TYPE "${text}")
    if(error)
      message(FATAL_ERROR "xlstm: ${file}: not JSON: ${error}")
    endif()
    if(NOT kind STREQUAL "OBJECT")
      message(FATAL_ERROR "xlstm: ${file}: holds a JSON ${kind}; an object was expected")
    endif()
  endif()
  set(initializer "")
  foreach(entry IN LISTS fields)
    string(REPLACE "|" ";" entry "${entry}")
    list(GET entry 0 field)
    list(GET entry 1 kind)
    list(GET entry 2 keys)
    string(REPLACE "," ";" keys "${keys}")
    set(literal "")
    foreach(key IN LISTS keys)
      _xlstm_config_value("${file}" "${text}" "${key}" value type)
      if(type STREQUAL "")
        continue()
      endif()
      list(LENGTH keys names)
      if(type STREQUAL "NULL" AND names GREATER 1)
        continue()
      endif()
      set(where "xlstm: ${file}: key ${key}: ${value} (${type})")
      if(kind STREQUAL "flag")
        if(NOT type STREQUAL "BOOLEAN")
          message(FATAL_ERROR "${where}; true or false was expected")
        endif()
        set(this false)
        if(value)
          set(this true)
        endif()
      elseif(kind STREQUAL "size")
        if(NOT type STREQUAL "NUMBER" OR NOT value MATCHES "^[1-9][0-9]*$" OR value GREATER 2147483647)
          message(FATAL_ERROR "${where}; a whole number from 1 to 2147483647 was expected")
        endif()
        set(this "${value}")
      elseif(kind MATCHES "^([A-Za-z]+):(.*)$")
        set(enumeration "${CMAKE_MATCH_1}")
        string(REPLACE "," ";" values "${CMAKE_MATCH_2}")
        if(NOT type STREQUAL "STRING" OR NOT value IN_LIST values)
          string(REPLACE ";" " or " values "${values}")
          message(FATAL_ERROR "${where}; ${values} was expected")
        endif()
        set(this "xlstm::${enumeration}::${value}")
      elseif(kind STREQUAL "cap" AND type STREQUAL "NULL")
        set(this 0)
      else()
        if(NOT type STREQUAL "NUMBER" OR NOT value MATCHES "^[+]?[0-9.]+([eE][-+]?[0-9]+)?$")
          message(FATAL_ERROR "${where}; a positive number was expected")
        endif()
        if(kind STREQUAL "real" AND value MATCHES "^[+]?[0.]+([eE].*)?$")
          message(FATAL_ERROR "${where}; a positive number was expected")
        endif()
        set(this "${value}")
      endif()
      if(literal STREQUAL "")
        set(literal "${this}")
        set(first "${key}")
      elseif(NOT literal STREQUAL this)
        message(FATAL_ERROR "${where}; ${first} says ${literal}, and both must be equal")
      endif()
    endforeach()
    if(literal STREQUAL "" AND field STREQUAL "ffn_proj_factor" AND file MATCHES "\\.yaml$")
      set(literal 2.6667)  # the original export's default
    endif()
    if(NOT literal STREQUAL "")
      string(APPEND initializer ".${field} = ${literal}, ")
    elseif(field IN_LIST required)
      string(REPLACE ";" " or " keys "${keys}")
      message(FATAL_ERROR "xlstm: ${file}: key ${keys}: missing; a whole number was expected")
    endif()
  endforeach()
  string(REGEX REPLACE ", $" "" initializer "${initializer}")
  set(${out} "${initializer}" PARENT_SCOPE)
endfunction()

# Writes a header only where it changes, so that nothing is compiled in vain.
function(_xlstm_write_header file content)
  set(old "")
  if(EXISTS "${file}")
    file(READ "${file}" old)
  endif()
  if(NOT old STREQUAL content)
    file(WRITE "${file}" "${content}")
  endif()
endfunction()

function(xlstm_add_model target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "NAME;CHECKPOINT" "")
  if(NOT TARGET ${target})
    message(FATAL_ERROR "xlstm_add_model: ${target} is not a target")
  endif()
  if(NOT arg_NAME MATCHES "^[A-Za-z_][A-Za-z0-9_]*$")
    message(FATAL_ERROR "xlstm_add_model: NAME '${arg_NAME}'; a C++ identifier was expected")
  endif()
  if(NOT arg_CHECKPOINT OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "xlstm_add_model: expected <target> NAME <identifier> CHECKPOINT <directory>")
  endif()
  get_filename_component(directory "${arg_CHECKPOINT}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
  _xlstm_config_file("${directory}" file)
  _xlstm_read_config("${file}" initializer)
  set(include_dir "${CMAKE_CURRENT_BINARY_DIR}/xlstm_models/${target}")
  _xlstm_write_header("${include_dir}/xlstm/models/${arg_NAME}.hpp" "// Written by CMake (xlstm_add_model) from
// ${file}
#pragma once

#include \"xlstm/model/config.hpp\"

inline constexpr xlstm::ModelConfig ${arg_NAME} = {${initializer}};
")
  get_target_property(kind ${target} TYPE)
  set(scope PRIVATE)
  if(kind STREQUAL "INTERFACE_LIBRARY")
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} ${scope} "${include_dir}")
endfunction()

# The header with the list of models that programs choose from at run time (xlstm/model/model_list.hpp).
function(xlstm_write_model_list header)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "PRESETS;CHECKPOINTS")
  set(entries "")
  set(seen "")
  foreach(directory IN LISTS arg_CHECKPOINTS)
    _xlstm_config_file("${directory}" file)
    _xlstm_read_config("${file}" initializer)
    string(REGEX REPLACE ", \\.chunk_size = [0-9]+" "" sizes "${initializer}")
    string(MD5 sizes "${sizes}")
    if(sizes IN_LIST seen)
      continue()
    endif()
    list(APPEND seen ${sizes})
    get_filename_component(name "${file}" DIRECTORY)
    get_filename_component(name "${name}" NAME)
    string(REGEX REPLACE "[^A-Za-z0-9._+-]" "_" name "${name}")
    list(APPEND entries "    xlstm::NamedConfig<\"${name}\", xlstm::ModelConfig{${initializer}}>")
  endforeach()
  if(arg_PRESETS)
    file(STRINGS "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../include/xlstm/model/presets.hpp" known REGEX "^ *{\"[^\"]+\", *xlstm_[a-z0-9_]+},")
  endif()
  foreach(preset IN LISTS arg_PRESETS)
    set(identifier "")
    set(names "")
    foreach(line IN LISTS known)
      string(REGEX MATCH "\"([^\"]+)\", *(xlstm_[a-z0-9_]+)" line "${line}")
      list(APPEND names "${CMAKE_MATCH_1}")
      if(CMAKE_MATCH_1 STREQUAL preset)
        set(identifier "${CMAKE_MATCH_2}")
      endif()
    endforeach()
    if(NOT identifier)
      list(JOIN names " " names)
      message(FATAL_ERROR "XLSTM_PRESETS: there is no preset ${preset}; there are ${names}")
    endif()
    list(APPEND entries "    xlstm::NamedConfig<\"${preset}\", xlstm::presets::${identifier}>")
  endforeach()
  list(JOIN entries ",\n" entries)
  _xlstm_write_header("${header}" "// Written by CMake from XLSTM_MODELS and XLSTM_PRESETS.
#pragma once

#include \"xlstm/model/model_list.hpp\"
#include \"xlstm/model/presets.hpp\"

namespace xlstm::compiled {

/// Every model that this program was compiled for.
using Models = xlstm::ModelList<
${entries}>;

}  // namespace xlstm::compiled
")
endfunction()

cmake_policy(POP)
