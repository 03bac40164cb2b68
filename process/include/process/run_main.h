#pragma once

#include <cstdint>
#include <functional>

namespace longshelf {

// The whole of a main: `body`, whose return value is the exit code. Exceptions are not how we report errors, but the
// standard library and Boost throw where the system refuses memory, threads or descriptors. One that leaves `body` or a
// thread ends the program with a line on standard error and kExitSystem, instead of SIGABRT. So does a limit of open
// files below n_files_min: gRPC aborts where it gets none.
int RunMain(const std::function<int()>& body, uint64_t n_files_min = 0);

// What a server needs to come up and say what is wrong.
inline constexpr uint64_t kServerFiles = 64;

}  // namespace longshelf
