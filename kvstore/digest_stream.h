#pragma once

#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

#include "common/check.h"
#include "kvstore/object.h"

namespace longshelf::kvstore {

// DigestOf for bytes that come in pieces.
class DigestStream {
 public:
  DigestStream() : state_(XXH3_createState()) {
    LONGSHELF_CHECK(state_ != nullptr && XXH3_128bits_reset(state_.get()) == XXH_OK);
  }
  void Add(std::span<const std::byte> bytes) {
    LONGSHELF_CHECK(XXH3_128bits_update(state_.get(), bytes.data(), bytes.size()) == XXH_OK);
  }
  // Copies, and hashes what was copied while it is in the processor's first cache. REQUIRES: target.size() ==
  // source.size().
  void AddCopied(std::span<std::byte> target, std::span<const std::byte> source) {
    constexpr size_t kChunkBytes = 8 << 10;
    for (size_t at = 0; at < target.size(); at += kChunkBytes) {
      const size_t n = std::min(kChunkBytes, target.size() - at);
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
