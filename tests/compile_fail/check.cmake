# cmake -DSOURCE=<file> -P check.cmake -- <compiler> <flag>…
#
# The source's first line says what must happen: `// expect: <sentence>` (the compiler refuses it, and the sentence is
# in what it prints) or `// expect to compile`.
# A sentence that does not fit into the line may be cut short.
file(STRINGS "${SOURCE}" first_line LIMIT_COUNT 1)
string(REPLACE "\\;" ";" first_line "${first_line}")
set(command "")
set(reading FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(reading)
    list(APPEND command "${CMAKE_ARGV${i}}")
  elseif("${CMAKE_ARGV${i}}" STREQUAL "--")
    set(reading TRUE)
  endif()
endforeach()

execute_process(COMMAND ${command} -std=c++20 -fsyntax-only "${SOURCE}"
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE errors)
string(APPEND output "${errors}")

if(first_line STREQUAL "// expect to compile")
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${SOURCE}: must compile, but the compiler says:\n${output}")
  endif()
elseif(first_line MATCHES "^// expect: (.+)$")
  set(sentence "${CMAKE_MATCH_1}")
  if(status EQUAL 0)
    message(FATAL_ERROR "${SOURCE}: compiles; expected an error that says: ${sentence}")
  endif()
  string(FIND "${output}" "${sentence}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "${SOURCE}: expected an error that says: ${sentence}\nThe compiler says:\n${output}")
  endif()
else()
  message(FATAL_ERROR "${SOURCE}: the first line must be `// expect: <sentence>` or `// expect to compile`")
endif()
