#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvstore/object.h"
#include "router/session.h"

// The objects in the KV store that a parked session's state is made of. Pure.
namespace longshelf::router {

// Prompt and output.
std::vector<uint32_t> AllTokens(const Session& session);

// Keys of some of the full blocks below `n_tokens`: of each of the first kTrailStep, and of every kTrailStep-th.
// `chain`: keys of all full blocks.
std::vector<std::string> TrailOf(std::span<const kvstore::BlockKey> chain, uint32_t block_tokens, uint32_t n_tokens);

// Blocks from the root on, checkpoint, tail. REQUIRES: info.kv.
std::vector<kvstore::PlacedKey> ObjectsOf(const SessionInfo& info, const Session& session,
                                          std::string_view namespace_salt);

// Of a session's state, what no other session has.
class OwnObjects {
 public:
  // REQUIRES: info.kv.
  OwnObjects(const SessionInfo& info, const Session& session, std::string_view namespace_salt);
  // What `other` has too is not its own. Where trails leave it open, a block counts as shared.
  void LeaveTo(const SessionInfo& other);
  void AddTo(std::vector<kvstore::PlacedKey>& keys) const;

 private:
  std::vector<kvstore::PlacedKey> blocks_;  // from the root on
  std::vector<kvstore::PlacedKey> state_;   // checkpoint and tail
  std::map<std::string, size_t> trail_;     // how many blocks are shared with who has this one
  size_t n_shared_ = 0;                     // of the blocks
  std::string checkpoint_key_;
};

}  // namespace longshelf::router
