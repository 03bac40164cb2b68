# Linked PRIVATE by every target of ours and by nothing else.
add_library(longshelf_flags INTERFACE)
target_compile_options(longshelf_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual
  -Wvla -Walloca -Werror
  # Bit-exactness: a product and a sum are fused only where the source says so.
  -ffp-contract=off
  -fstack-protector-strong)
target_compile_definitions(longshelf_flags INTERFACE _GLIBCXX_ASSERTIONS)
if(LONGSHELF_SANITIZE)
  # GCC 12 sees uninitialised reads in instrumented Boost and absl headers that are not there.
  target_compile_options(longshelf_flags INTERFACE -Wno-maybe-uninitialized)
else()  # sanitizers check more than fortified functions do, and miss what those hide
  target_compile_definitions(longshelf_flags INTERFACE _FORTIFY_SOURCE=2)
endif()
if(LONGSHELF_LIBFUZZER)  # GCC's warnings are the ones that count
  target_compile_options(longshelf_flags INTERFACE -Wno-error -Wno-unknown-warning-option -w)
endif()
if(LONGSHELF_SANITIZE MATCHES "thread")
  # Asio's fences are beside its own synchronisation; the thread sanitizer cannot model them and says so.
  target_compile_options(longshelf_flags INTERFACE -Wno-tsan)
endif()
