#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace longshelf::kvstore {

// The disk tier of a store.
struct DiskOptions {
  std::string directory = {};  // empty: there is none
  uint64_t quota_bytes = 0;    // set aside at the start, used up to it and never beyond
  uint64_t segment_bytes = 256ull << 20;
  // Part of the quota that retained objects may claim, 0 .. 1. Each turn of the disk writes them anew, so this part
  // costs 1 / (1 - part) in writes.
  double parked_share = 0.5;
  // Group commit: whichever comes first.
  uint64_t sync_bytes = 64ull << 20;
  absl::Duration sync_interval = absl::Milliseconds(50);
  // Records that wait to be written; more are refused.
  uint64_t queue_bytes = 128ull << 20;
  // How fast what lies on disk is read again and checked; 0: never.
  uint64_t scrub_bytes_per_s = 16ull << 20;
  // Each has a key in a file of 4 KiB, beside the quota.
  uint64_t n_encrypted_namespaces_max = 65536;
};

}  // namespace longshelf::kvstore
