set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_VERIFY_INTERFACE_HEADER_SETS ON)
# Configurations without debug info for third-party headers compile in half the time.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

find_program(MOLD_PROGRAM mold)
if(MOLD_PROGRAM)
  add_link_options(-fuse-ld=mold)
endif()

# With clang: every library tells libFuzzer where an input went. tests/fuzz/README.md.
option(LONGSHELF_LIBFUZZER "build the targets of tests/fuzz with libFuzzer and the address and undefined sanitizers" OFF)
if(LONGSHELF_LIBFUZZER)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "LONGSHELF_LIBFUZZER needs clang: CC=clang CXX=clang++ cmake ...")
  endif()
  set(LONGSHELF_SANITIZE "address,undefined" CACHE STRING "" FORCE)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

set(LONGSHELF_SANITIZE "" CACHE STRING "address,undefined or thread; empty for none")
if(LONGSHELF_SANITIZE)
  # What sanitizers add is most of the compiler's work: with -O1 a third less than with -O2, and they find the same.
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1")
  add_compile_options(-fsanitize=${LONGSHELF_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  if(LONGSHELF_SANITIZE MATCHES "undefined")
    # At every access through a pointer, and four tenths of that work: pointers are the address sanitizer's.
    add_compile_options(-fno-sanitize=null,vptr,object-size,pointer-overflow,nonnull-attribute,returns-nonnull-attribute)
  endif()
  add_link_options(-fsanitize=${LONGSHELF_SANITIZE})
endif()
