#pragma once

#include <cstdint>
#include <set>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kvstore/object.h"

namespace longshelf::kvstore {

struct Entry;

// Least recent stamp first.
using Candidates = std::set<std::pair<uint64_t, Entry*>>;

// What one namespace holds. Owned by the index.
struct Tenant {
  std::unordered_set<Entry*> entries;

  // Of the eviction queue.
  uint64_t bytes = 0;
  bool over_floor = false;   // has more than nobody may take from him
  Candidates candidates[2];  // by Entry::Queue
};

// A committed object.
struct Entry {
  ObjectHead head;
  std::vector<uint32_t> pages;
  uint64_t charge_bytes = 0;  // what it costs against the store's limit
  uint32_t n_pins = 0;        // readers that still copy from the pages; changed through Pin and Unpin

  // Of the index.
  enum class Rank : uint8_t { kNone, kLeaf, kUnderHeld };
  bool held = false;        // parked and not expired
  Rank rank = Rank::kNone;  // whether it may be evicted, and by which list
  Tenant* tenant = nullptr;

  // Of the eviction queue.
  enum class Queue : uint8_t { kSmall, kMain };
  Queue queue = Queue::kSmall;
  bool used = false;   // in the small queue: since it came
  uint64_t stamp = 0;  // larger is later
};

}  // namespace longshelf::kvstore
