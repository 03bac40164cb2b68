#pragma once

#include <signal.h>

namespace longshelf::testing {

// What a shard with inject_fault.cc before it does on its main thread, which is the engine's.
enum class Fault { kExit, kThrow, kLoop, kEatMemory };

inline int SignalOf(Fault fault) { return SIGRTMIN + static_cast<int>(fault); }

}  // namespace longshelf::testing
