#pragma once

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

// Those of them that none of `others` has too. Where trails leave it open, a block counts as shared.
std::vector<kvstore::PlacedKey> ObjectsOnlyOf(const SessionInfo& info, const Session& session,
                                              std::string_view namespace_salt, std::span<const SessionInfo> others);

}  // namespace longshelf::router
