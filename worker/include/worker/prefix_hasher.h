#pragma once

#include <span>

#include "engine/prefix_key.h"
#include "kvstore/keys.h"

namespace longshelf::worker {

// Names the engine's prefixes with the KV store's keys, so that a local checkpoint and a stored one of the same tokens
// have the same name. Pure; any thread.
class KvPrefixHasher final : public engine::PrefixHasher {
 public:
  explicit KvPrefixHasher(const std::array<uint8_t, 32>& fingerprint) : fingerprint_(fingerprint) {}
  engine::PrefixKey Root(std::string_view namespace_salt) const override {
    return kvstore::ChainRoot(fingerprint_, namespace_salt);
  }
  engine::PrefixKey Next(const engine::PrefixKey& parent, std::span<const uint32_t> tokens) const override {
    return kvstore::ChainNext(parent, tokens);
  }

 private:
  const std::array<uint8_t, 32> fingerprint_;
};

}  // namespace longshelf::worker
