#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

#include "common/check.h"
#include "kvstore/object.h"
#include "xxh3.h"

namespace longshelf::kvstore {

// What is hashed and copied goes in pieces that the processor's first cache holds.
inline constexpr size_t kHashedBytes = 8 << 10;

// DigestOf for bytes that come in pieces.
class DigestStream {
 public:
  DigestStream() : state_(XXH3_createState()) {
    LONGSHELF_CHECK(state_ != nullptr && XXH3_128bits_reset(state_.get()) == XXH_OK);
  }
  void Add(std::span<const std::byte> bytes) {
    LONGSHELF_CHECK(XXH3_128bits_update(state_.get(), bytes.data(), bytes.size()) == XXH_OK);
  }
  // Copies, and hashes what was copied. REQUIRES: both have one size.
  void AddCopied(std::span<std::byte> target, std::span<const std::byte> source) {
    for (size_t at = 0; at < target.size(); at += kHashedBytes) {
      const size_t n = std::min(kHashedBytes, target.size() - at);
      std::memcpy(target.data() + at, source.data() + at, n);
      Add(target.subspan(at, n));
    }
  }
  Digest Finish() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    Digest digest;
    std::memcpy(digest.data(), canonical.digest, digest.size());
    return digest;
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace longshelf::kvstore
