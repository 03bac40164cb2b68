// Loaded before a longshelf-shard (LD_PRELOAD): makes its engine thread do what a bug would, when told by a signal.
#include "inject_fault.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace longshelf::testing {
namespace {

[[noreturn]] void LoopForEver() {
  volatile bool goes_on = true;
  while (goes_on) {
  }
  _exit(1);
}

// Memory that is used, until there is none.
[[noreturn]] void EatMemory() {
  constexpr size_t kBytes = size_t{1} << 20;
  std::vector<std::vector<char>> all;
  while (true) all.emplace_back(kBytes, 'x');
}

void OnSignal(int number) {
  switch (static_cast<Fault>(number - SIGRTMIN)) {
    case Fault::kExit:
      _exit(0);
    case Fault::kThrow:
      throw std::runtime_error("injected by a test");
    case Fault::kLoop:
      LoopForEver();
    case Fault::kEatMemory:
      EatMemory();
  }
}

__attribute__((constructor)) void Arm() {
  if (std::strcmp(program_invocation_short_name, "longshelf-shard") != 0) return;
  for (const Fault fault : {Fault::kExit, Fault::kThrow, Fault::kLoop, Fault::kEatMemory}) {
    signal(SignalOf(fault), OnSignal);
  }
}

}  // namespace
}  // namespace longshelf::testing
