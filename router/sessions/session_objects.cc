#include "session_objects.h"

#include <algorithm>
#include <cstring>

#include "kvstore/keys.h"
#include "manifests.h"
#include "router/prefix_index.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::ObjectKind;
using kvstore::PlacedKey;

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

std::vector<PlacedKey> BlocksOf(const Chain& chain, uint32_t block_tokens) {
  std::vector<PlacedKey> keys;
  for (size_t i = 0; i < chain.blocks.size(); ++i) {
    const auto depth = static_cast<uint32_t>((i + 1) * block_tokens);
    keys.push_back({{chain.blocks[i], ObjectKind::kBlock}, kvstore::ExtentOf(chain.root, chain.blocks, depth)});
  }
  return keys;
}

std::vector<PlacedKey> StateOf(const Chain& chain, const ParkedKv& kv) {
  const BlockKey checkpoint = KeyOf(kv.state.checkpoint_key);
  return {{{checkpoint, ObjectKind::kCheckpoint}, chain.state_extent},
          {{checkpoint, ObjectKind::kTail}, chain.state_extent}};
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
    trail.push_back(KeyText(chain[i]));
  }
  return trail;
}

std::vector<PlacedKey> ObjectsOf(const SessionInfo& info, const Session& session, std::string_view namespace_salt) {
  std::vector<PlacedKey> keys;
  OwnObjects(info, session, namespace_salt).AddTo(keys);
  return keys;
}

OwnObjects::OwnObjects(const SessionInfo& info, const Session& session, std::string_view namespace_salt)
    : checkpoint_key_(info.kv->state.checkpoint_key) {
  const Chain chain = ChainOf(info, session, namespace_salt);
  blocks_ = BlocksOf(chain, info.kv->block_tokens);
  state_ = StateOf(chain, *info.kv);
  for (const size_t i : TrailPlaces(chain.blocks.size())) {
    // Beyond the first ones the blocks up to the next place may be shared as well.
    trail_[KeyText(chain.blocks[i])] = std::min(i + (i + 1 < kTrailStep ? 1 : kTrailStep), chain.blocks.size());
  }
}

void OwnObjects::LeaveTo(const SessionInfo& other) {
  if (!other.kv.has_value()) return;
  for (const std::string& key : other.kv->trail) {
    const auto found = trail_.find(key);
    if (found != trail_.end()) n_shared_ = std::max(n_shared_, found->second);
  }
  if (other.kv->state.checkpoint_key == checkpoint_key_) state_.clear();
}

void OwnObjects::AddTo(std::vector<PlacedKey>& keys) const {
  keys.insert(keys.end(), blocks_.begin() + static_cast<std::ptrdiff_t>(n_shared_), blocks_.end());
  keys.insert(keys.end(), state_.begin(), state_.end());
}

}  // namespace longshelf::router
