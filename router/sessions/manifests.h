#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/client.h"

namespace longshelf::router {

// Small immutable objects that routers keep in the KV store, found by parent and the beginning of their hash. Calls
// come from the router loop, and answers come there, through `post`; none after this is gone.
class Manifests {
 public:
  using Post = std::function<void(std::function<void()>)>;
  // A manifest is worth more copies than what it names, but is promised like that: stores make up for what is missing.
  static constexpr uint32_t kReplicas = 3;
  static constexpr uint32_t kAcks = 2;
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;
  // False: the stores that did not answer may be all that have one of those that are not in the list.
  static bool IsWhole(const kvstore::ListResult& listed) { return listed.n_nodes_missed < kAcks; }

  struct Item {
    kvstore::BlockKey hash{};
    kvstore::BlockKey parent{};
    kvstore::BlockKey extent{};
    uint32_t depth_tokens = 1;
    std::string namespace_id;
    std::string bytes;
    absl::Time retain_until;
    kvstore::Ack ack = kvstore::Ack::kMemoryAll;
  };

  // The client must outlive this.
  Manifests(kvstore::Client& client, Post post) : client_(client), post_(std::move(post)) {}
  ~Manifests() { *alive_ = false; }

  // RESOURCE_EXHAUSTED or FAILED_PRECONDITION: the store cannot promise it. UNAVAILABLE: it is not there.
  void Put(const Item& item, std::function<void(absl::Status)> done);
  // In their order.
  void Get(std::vector<kvstore::GetItem> items, Done<std::vector<absl::StatusOr<std::string>>> done);
  void List(const kvstore::ListQuery& query, Done<kvstore::ListResult> done);
  // Any objects. The number of stores that did not answer.
  void Drop(std::vector<kvstore::PlacedKey> keys, Done<uint32_t> done) { DropFrom(std::move(keys), 0, 0, done); }
  void DropNamespace(kvstore::NamespaceDrop drop, Done<uint32_t> done);
  void Touch(kvstore::TouchQuery query, Done<kvstore::TouchResult> done);

 private:
  template <typename T>
  std::function<void(T)> OnLoop(std::function<void(T)> callback) const;
  void DropFrom(std::vector<kvstore::PlacedKey> keys, size_t first, uint32_t n_missed, Done<uint32_t> done);

  kvstore::Client& client_;
  const Post post_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // read and written on the loop
};

// Hashes of versions: 16 bytes of what they are versions of, the version's time in milliseconds (8 bytes, big endian:
// the newest is listed last), and 8 random bytes.
inline constexpr size_t kVersionPrefixBytes = 16;
kvstore::BlockKey VersionKey(const kvstore::BlockKey& of, absl::Time version);
absl::Time VersionOf(const kvstore::BlockKey& key);
std::string VersionPrefix(const kvstore::BlockKey& of);

std::string KeyText(const kvstore::BlockKey& key);

}  // namespace longshelf::router
