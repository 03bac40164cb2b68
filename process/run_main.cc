#include "process/run_main.h"

#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/config.h"

namespace longshelf {
namespace {

std::string Describe(const std::exception_ptr& exception) {
  if (exception == nullptr) return "ended while an error was being handled";
  try {
    std::rethrow_exception(exception);
  } catch (const std::exception& known) {
    return absl::StrCat("the system refused something: ", known.what());
  } catch (...) {
    return "ended by an exception of an unknown kind";
  }
}

void Say(const std::exception_ptr& exception) {
  const std::string what = Describe(exception);
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, what.c_str());
  LeaveDeathNote(what.c_str());
}

}  // namespace

int RunMain(const std::function<int()>& body, uint64_t n_files_min) {
  std::set_terminate([] {
    Say(std::current_exception());
    _exit(kExitSystem);
  });
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < n_files_min) {
    std::fprintf(stderr, "%s: may open %llu files (ulimit -n), and needs at least %llu\n",
                 program_invocation_short_name, static_cast<unsigned long long>(files.rlim_cur),
                 static_cast<unsigned long long>(n_files_min));
    return kExitSystem;
  }
  try {
    return body();
  } catch (...) {
    Say(std::current_exception());
    return kExitSystem;
  }
}

}  // namespace longshelf
