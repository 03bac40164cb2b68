#include "session_objects.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "kvstore/keys.h"
#include "router/prefix_index.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::ObjectKind;
using kvstore::PlacedKey;

std::string Text(const BlockKey& key) { return {reinterpret_cast<const char*>(key.data()), key.size()}; }

BlockKey KeyOf(const std::string& bytes) {
  BlockKey key{};
  std::memcpy(key.data(), bytes.data(), std::min(bytes.size(), key.size()));
  return key;
}

// Places of a trail among `n_blocks` blocks.
std::vector<size_t> TrailPlaces(size_t n_blocks) {
  std::vector<size_t> places;
  for (size_t i = 0; i < n_blocks; i += i + 1 < kTrailStep ? 1 : kTrailStep) places.push_back(i);
  return places;
}

struct Chain {
  BlockKey root;
  std::vector<BlockKey> blocks;  // those that were parked
  BlockKey state_extent;         // where checkpoint and tail are
};

Chain ChainOf(const SessionInfo& info, const Session& session, std::string_view namespace_salt) {
  const ParkedKv& kv = *info.kv;
  const PromptKeys keys = MakePromptKeys(KeyOf(info.fingerprint), namespace_salt, kv.block_tokens, AllTokens(session));
  const std::span<const BlockKey> blocks = std::span(keys.chain).subspan(1);
  const auto n_blocks = std::min<size_t>(blocks.size(), kv.state.n_tokens / kv.block_tokens);
  return {keys.chain[0],
          {blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(n_blocks)},
          kvstore::ExtentOf(keys.chain[0], blocks, std::max<uint32_t>(kv.state.n_tokens, 1))};
}

void AddBlocks(const Chain& chain, size_t first, uint32_t block_tokens, std::vector<PlacedKey>& keys) {
  for (size_t i = first; i < chain.blocks.size(); ++i) {
    const auto depth = static_cast<uint32_t>((i + 1) * block_tokens);
    keys.push_back({{chain.blocks[i], ObjectKind::kBlock}, kvstore::ExtentOf(chain.root, chain.blocks, depth)});
  }
}

void AddState(const Chain& chain, const ParkedKv& kv, std::vector<PlacedKey>& keys) {
  const BlockKey checkpoint = KeyOf(kv.state.checkpoint_key);
  keys.push_back({{checkpoint, ObjectKind::kCheckpoint}, chain.state_extent});
  keys.push_back({{checkpoint, ObjectKind::kTail}, chain.state_extent});
}

}  // namespace

std::vector<uint32_t> AllTokens(const Session& session) {
  std::vector<uint32_t> tokens = *session.prompt;
  tokens.insert(tokens.end(), session.output.begin(), session.output.end());
  return tokens;
}

std::vector<std::string> TrailOf(std::span<const BlockKey> chain, uint32_t block_tokens, uint32_t n_tokens) {
  std::vector<std::string> trail;
  for (const size_t i : TrailPlaces(std::min<size_t>(chain.size(), n_tokens / block_tokens))) {
    trail.push_back(Text(chain[i]));
  }
  return trail;
}

std::vector<PlacedKey> ObjectsOf(const SessionInfo& info, const Session& session, std::string_view namespace_salt) {
  const Chain chain = ChainOf(info, session, namespace_salt);
  std::vector<PlacedKey> keys;
  AddBlocks(chain, 0, info.kv->block_tokens, keys);
  AddState(chain, *info.kv, keys);
  return keys;
}

std::vector<PlacedKey> ObjectsOnlyOf(const SessionInfo& info, const Session& session, std::string_view namespace_salt,
                                     std::span<const SessionInfo> others) {
  const Chain chain = ChainOf(info, session, namespace_salt);
  std::set<std::string> theirs;
  bool is_state_shared = false;
  for (const SessionInfo& other : others) {
    if (!other.kv.has_value()) continue;
    theirs.insert(other.kv->trail.begin(), other.kv->trail.end());
    is_state_shared = is_state_shared || other.kv->state.checkpoint_key == info.kv->state.checkpoint_key;
  }
  size_t n_shared = 0;
  for (const size_t i : TrailPlaces(chain.blocks.size())) {
    // Beyond the first ones the blocks up to the next place may be shared as well.
    if (theirs.contains(Text(chain.blocks[i]))) n_shared = i + (i + 1 < kTrailStep ? 1 : kTrailStep);
  }
  std::vector<PlacedKey> keys;
  AddBlocks(chain, n_shared, info.kv->block_tokens, keys);
  if (!is_state_shared) AddState(chain, *info.kv, keys);
  return keys;
}

}  // namespace longshelf::router
