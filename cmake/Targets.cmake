# A directory is a library; what it may include is what it links.
#
#   longshelf_library(NAME common
#     PUBLIC_HEADERS include/common/clock.h    # below include/, the only headers others may see
#     SOURCES clock.cc
#     PUBLIC absl::status PRIVATE spdlog::spdlog)
function(longshelf_library)
  cmake_parse_arguments(ARG "" "NAME" "PUBLIC_HEADERS;SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${ARG_NAME} STATIC)
  # A header compiles alone when its source includes it first; all_verify_interface_header_sets compiles the others.
  set(first_includes "")
  foreach(source IN LISTS ARG_SOURCES)
    file(STRINGS ${source} first REGEX "^#include" LIMIT_COUNT 1)
    list(APPEND first_includes "${first}")
  endforeach()
  set(with_source "")
  set(alone "")
  foreach(header IN LISTS ARG_PUBLIC_HEADERS)
    string(REGEX REPLACE "^include/" "" included ${header})
    if("#include \"${included}\"" IN_LIST first_includes)
      list(APPEND with_source ${header})
    else()
      list(APPEND alone ${header})
    endif()
  endforeach()
  target_sources(${ARG_NAME}
    PUBLIC
      FILE_SET HEADERS BASE_DIRS ${CMAKE_CURRENT_SOURCE_DIR}/include FILES ${alone}
      FILE_SET with_source TYPE HEADERS BASE_DIRS ${CMAKE_CURRENT_SOURCE_DIR}/include FILES ${with_source}
    PRIVATE ${ARG_SOURCES})
  set_target_properties(${ARG_NAME} PROPERTIES INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
  target_link_libraries(${ARG_NAME} PUBLIC ${ARG_PUBLIC} PRIVATE longshelf_flags ${ARG_PRIVATE})
  set_property(GLOBAL APPEND PROPERTY LONGSHELF_LIBRARIES ${ARG_NAME})  # each gets a link test (tests/layering)
endfunction()

#   longshelf_binary(NAME longshelf-router SOURCES main.cc LINK router)
function(longshelf_binary)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;LINK" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE longshelf_flags ${ARG_LINK})
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
endfunction()

#   longshelf_test(NAME kvstore_test SOURCES block_pool_test.cc LINK kvstore [TIMEOUT 60] [LABELS fast kernels])
# One ctest entry per binary. Labels, for ctest -L and as targets that build what they name:
#   fast     engine and parsers, seconds each even under sanitizers, none starts a process: scripts/test.sh runs them so
#   kernels  what depends on the vector kernels: scripts/test.sh runs them with each kind Tests find fixtures through testing::FixturePath() (tests/testing).
function(longshelf_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE longshelf_flags ${ARG_LINK} test_support GTest::gmock GTest::gtest_main)
  # Most of a test's time is its compiler's: a third of that is saved here, and what it tests is optimised as ever.
  target_compile_options(${ARG_NAME} PRIVATE -O1)
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  if(ARG_LABELS)
    set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}")
    foreach(label IN LISTS ARG_LABELS)
      if(NOT TARGET ${label}_tests)
        add_custom_target(${label}_tests)
      endif()
      add_dependencies(${label}_tests ${ARG_NAME})
    endforeach()
  endif()
  if(LONGSHELF_SANITIZE MATCHES "thread")
    set_tests_properties(${ARG_NAME} PROPERTIES
      ENVIRONMENT "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/cmake/tsan_suppressions.txt")
  endif()
endfunction()
