#pragma once

#include <cstdint>

namespace longshelf::engine {

// Head of the drafter's part of a state slot. All zero: it has seen nothing. A drafter that is shown a position it did
// not expect, because a state was imported or steps went by without it, starts again there.
struct DraftState {
  int64_t first = 0;  // its windows hold positions [first, end), as far as their rows reach
  int64_t end = 0;
  int64_t has_streams = 0;  // MTP: 1 when the streams of position `end` wait for the token after it
};

}  // namespace longshelf::engine
