#pragma once

#include <cstdint>
#include <functional>
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
// How many leading tokens of `tokens` could be resumed locally right now; at most tokens.size() - 1, as the last token
// is always computed.
struct ProbePrefix {
  std::vector<uint32_t> tokens;
  std::string namespace_salt;
  std::function<void(int64_t n_tokens)> reply;
  std::vector<PrefixKey> prefix_keys = {};  // as SequenceRequest's
};
// Copies out everything that resumes at the longest checkpoint at or before tokens.size(); replies with NOT_FOUND when
// the prefix is no longer held.
struct ExportPrefix {
  std::vector<uint32_t> tokens;
  std::string namespace_salt;
  std::function<void(absl::StatusOr<std::vector<ParkedObject>>)> reply;
  std::vector<PrefixKey> prefix_keys = {};  // as SequenceRequest's
};
// Admit nothing more: what waits gets Failed(UNAVAILABLE), what runs finishes.
struct DrainRequest {};
using EngineMessage = std::variant<Submit, Cancel, ProbePrefix, ExportPrefix, DrainRequest>;

}  // namespace longshelf::engine
