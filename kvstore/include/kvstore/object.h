#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvstore/keys.h"

namespace longshelf::kvstore {

// What a payload is. The store never looks inside; it uses the kind for chains (blocks are parents) and for Lookup
// (checkpoints are listed, tails are reported beside them). The values are on the wire: part of every object key.
enum class ObjectKind : uint8_t {
  kBlock = 1,       // the compressed entries of one full block
  kCheckpoint = 2,  // the fixed-size state of a sequence at a token position
  kTail = 3,        // the compressed entries of a partly filled last block
  kManifest = 4,    // what a session is made of; its parent is the root of a namespace's sessions
};

constexpr bool IsObjectKind(uint8_t value) {
  return value >= static_cast<uint8_t>(ObjectKind::kBlock) && value <= static_cast<uint8_t>(ObjectKind::kManifest);
}

enum class ObjectClass : uint8_t {
  kCache = 0,   // may be evicted at any time
  kParked = 1,  // never evicted before retain_until; a store without room for the promise refuses the put
};

// 32 bytes naming model, layout and numerics. Objects of unequal fingerprints never meet.
using Fingerprint = std::array<uint8_t, 32>;
// XXH3-128 of a payload, canonical (big-endian) form.
using Digest = std::array<uint8_t, 16>;

struct ObjectKey {
  BlockKey hash{};
  ObjectKind kind = ObjectKind::kBlock;
  auto operator<=>(const ObjectKey&) const = default;
};

// A key and where in the cluster its object belongs.
struct PlacedKey {
  ObjectKey key;
  BlockKey extent{};
};

// Everything about an object but its bytes.
struct ObjectHead {
  // Whether it is promised to stay.
  bool IsRetained(absl::Time now) const { return object_class == ObjectClass::kParked && retain_until > now; }

  ObjectKey key;
  // kBlock: key of the block before it, or the chain root. kCheckpoint and kTail: key of the last full block at or
  // before depth_tokens (equal to key.hash for a checkpoint on a block boundary), or the chain root.
  // kManifest: what its sessions are listed under.
  BlockKey parent{};
  // What it is placed by: objects of one extent lie on the same nodes (ExtentOf). A node only keeps it.
  BlockKey extent{};
  uint32_t depth_tokens = 0;  // tokens covered from position 0; at least 1
  Fingerprint fingerprint{};
  uint64_t payload_bytes = 0;  // 1 .. kMaxPayloadBytes
  Digest digest{};
  ObjectClass object_class = ObjectClass::kCache;
  absl::Time retain_until = absl::UnixEpoch();  // wall clock; only meaningful with kParked
  std::string namespace_id;                     // opaque, 1 .. kMaxNamespaceBytes
};

// Limits of the wire contract, checked on both sides before anything is allocated.
inline constexpr uint64_t kMaxPayloadBytes = 64ull << 20;
inline constexpr size_t kMaxNamespaceBytes = 64;
inline constexpr size_t kMaxFrameBytes = 512 << 10;  // payload bytes of one data frame
inline constexpr size_t kMaxChainKeys = 65536;       // Lookup
inline constexpr size_t kMaxProbes = 4096;           // Lookup
// Lookup: those inside a block, and those at the end of one.
inline constexpr size_t kMaxListedTails = 64;
inline constexpr size_t kMaxListedBoundaries = 64;
inline constexpr size_t kMaxListedCheckpoints = kMaxListedTails + kMaxListedBoundaries;
inline constexpr size_t kMaxKeysPerCall = 4096;  // Get, Touch, Drop
inline constexpr uint32_t kMaxReplicas = 8;
inline constexpr size_t kMaxListed = 1000;             // List, per call
inline constexpr uint32_t kMaxDepthTokens = 1u << 24;  // 16 Mi tokens

// INVALID_ARGUMENT: names the field that is not within these limits.
absl::Status CheckHead(const ObjectHead& head);

// The digest of a whole payload.
Digest DigestOf(std::span<const std::byte> payload);

}  // namespace longshelf::kvstore
