#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cache_objects.h"
#include "engine/request.h"

namespace longshelf::engine {

// Messages to the engine thread.
struct Submit {
  SequenceRequest request;
};
struct Cancel {
  uint64_t id = 0;
};
// The longest position at or before tokens.size() that can be resumed locally right now; NOT_FOUND when there is none.
struct FindPrefix {
  std::vector<uint32_t> tokens;
  std::string namespace_salt;
  std::function<void(absl::StatusOr<FoundPrefix>)> reply;
  std::vector<PrefixKey> prefix_keys = {};  // as SequenceRequest's
};
// A checkpoint by its name, without the keys of blocks; NOT_FOUND when it is not held any more.
struct FindCheckpoint {
  PrefixKey key{};
  std::function<void(absl::StatusOr<FoundPrefix>)> reply;
};
// Copies out full blocks, `keys` from `first` on, as fast as the sink has room.
struct ExportBlocks {
  PrefixKey root{};
  std::vector<PrefixKey> keys;  // of one chain, from its first block
  size_t first = 0;
  std::shared_ptr<BlockSink> sink;
};
// A feed has something, or a sink has room again.
struct Wake {};
// Admit nothing more: what waits gets Failed(UNAVAILABLE), what runs finishes.
struct DrainRequest {};
using EngineMessage = std::variant<Submit, Cancel, FindPrefix, FindCheckpoint, ExportBlocks, Wake, DrainRequest>;

}  // namespace longshelf::engine
