# Installs the library under WORK and builds the project beside this file in one way (FROM):
#   package       against the installed package, and runs it
#   core          against the installed package's core alone
#   subdirectory  by add_subdirectory (configured only)
#   fetch         by FetchContent with SOURCE_DIR (configured only)
#   missing       asks the package for a component that does not exist, and expects to be told so
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nfailed (${status}):\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(build "${WORK}/${FROM}")
file(REMOVE_RECURSE "${build}")
set(user ${CMAKE_COMMAND} -S "${CMAKE_CURRENT_LIST_DIR}" -B "${build}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${CXX}"
  "-DXLSTM_SOURCE=${SOURCE}" "-DXLSTM_CHECKPOINT=${SOURCE}/tests/data/models/tiny-f32" "-DCMAKE_BUILD_TYPE=Debug"
  "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}")

if(FROM MATCHES "^(package|core|missing)$")
  set(prefix "${build}/prefix")
  run(${CMAKE_COMMAND} --install "${LIBRARY_BUILD}" --prefix "${prefix}")
  list(APPEND user "-DXLSTM_FROM=package" "-DCMAKE_PREFIX_PATH=${prefix}")
else()
  list(APPEND user "-DXLSTM_FROM=${FROM}")
endif()

if(FROM STREQUAL "missing")
  function(expect_refusal component reason)
    execute_process(COMMAND ${user} "-DXLSTM_WANTED=${component}" RESULT_VARIABLE status OUTPUT_VARIABLE output
      ERROR_VARIABLE output)
    string(REGEX REPLACE "[ \n]+" " " output "${output}")
    if(status EQUAL 0 OR NOT output MATCHES "${reason}")
      message(FATAL_ERROR "the component ${component} was not refused:\n${output}")
    endif()
  endfunction()
  expect_refusal(abacus "there is no component 'abacus'")
  file(GLOB_RECURSE cuda "${prefix}/*xlstm-cuda-targets.cmake")
  if(NOT cuda)
    expect_refusal(cuda "component cuda: this installation was made without it")
  endif()
  return()
endif()

if(FROM STREQUAL "core")
  list(APPEND user "-DXLSTM_WANTED=core")
endif()
run(${user})
if(FROM STREQUAL "package")
  run(${CMAKE_COMMAND} --build "${build}")
  run("${build}/package_user")
  if(NOT output STREQUAL "heads 8, error caught, model found\n")
    message(FATAL_ERROR "the program says: ${output}")
  endif()
endif()
