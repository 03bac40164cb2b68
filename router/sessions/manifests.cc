#include "manifests.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string_view>
#include <utility>

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::GetItem;
using kvstore::PlacedKey;

constexpr absl::Duration kTimeout = absl::Seconds(10);
constexpr absl::Duration kListTimeout = absl::Seconds(3);  // a store that hangs is not waited for
constexpr size_t kVersionBytes = 8;

// All manifests have this one, whatever model they are about.
kvstore::Fingerprint ManifestFingerprint() {
  kvstore::Fingerprint fingerprint{};
  constexpr std::string_view kName = "longshelf sessions/1";
  std::memcpy(fingerprint.data(), kName.data(), kName.size());
  return fingerprint;
}

}  // namespace

std::string KeyText(const BlockKey& key) { return {reinterpret_cast<const char*>(key.data()), key.size()}; }

std::string VersionPrefix(const BlockKey& of) { return KeyText(of).substr(0, kVersionPrefixBytes); }

BlockKey VersionKey(const BlockKey& of, absl::Time version) {
  BlockKey key = of;
  const auto number = static_cast<uint64_t>(absl::ToUnixMillis(version));
  for (size_t i = 0; i < kVersionBytes; ++i) {
    key[kVersionPrefixBytes + i] = static_cast<uint8_t>(number >> (8 * (kVersionBytes - 1 - i)));
  }
  std::random_device random;
  for (size_t i = kVersionPrefixBytes + kVersionBytes; i < key.size(); ++i) key[i] = static_cast<uint8_t>(random());
  return key;
}

absl::Time VersionOf(const BlockKey& key) {
  uint64_t number = 0;
  for (size_t i = 0; i < kVersionBytes; ++i) number = number << 8 | key[kVersionPrefixBytes + i];
  return absl::FromUnixMillis(static_cast<int64_t>(number));
}

template <typename T>
std::function<void(T)> Manifests::OnLoop(std::function<void(T)> callback) const {
  return [post = post_, alive = alive_, callback = std::move(callback)](T result) {
    auto shared = std::make_shared<T>(std::move(result));
    post([alive, callback, shared] {
      if (*alive) callback(std::move(*shared));
    });
  };
}

void Manifests::Put(const Item& item, std::function<void(absl::Status)> done) {
  kvstore::PutItem put;
  put.head.key = {item.hash, kvstore::ObjectKind::kManifest};
  put.head.parent = item.parent;
  put.head.extent = item.extent;
  put.head.depth_tokens = std::clamp<uint32_t>(item.depth_tokens, 1, kvstore::kMaxDepthTokens);
  put.head.fingerprint = ManifestFingerprint();
  put.head.object_class = kvstore::ObjectClass::kParked;
  put.head.retain_until = item.retain_until;
  put.head.namespace_id = item.namespace_id;
  const auto* const begin = reinterpret_cast<const std::byte*>(item.bytes.data());
  put.payload = std::make_shared<const std::vector<std::byte>>(begin, begin + item.bytes.size());
  put.ack = item.ack;
  put.n_replicas = kReplicas;
  put.n_acks = kAcks;
  // With the outcome: the call ends later, when the last store has answered.
  const auto finish = [once = std::make_shared<std::function<void(absl::Status)>>(
                           OnLoop<absl::Status>(std::move(done)))](const absl::Status& status) {
    if (const auto first = std::exchange(*once, nullptr)) first(status);
  };
  const auto call = client_.Put(
      kTimeout,
      {.on_outcome = [finish](size_t, const absl::StatusOr<kvstore::PutOutcome>& given) { finish(given.status()); },
       .on_done =
           [finish](const absl::Status& status) {
             finish(status.ok() ? absl::UnavailableError("the KV store gave no answer") : status);
           }});
  call->Offer(std::move(put));
  call->Finish();
}

void Manifests::Get(std::vector<GetItem> items, Done<std::vector<absl::StatusOr<std::string>>> done) {
  using Objects = std::vector<absl::StatusOr<std::string>>;
  // Objects come on the client's threads, one at a time.
  const auto objects = std::make_shared<Objects>();
  uint64_t n_bytes = 0;
  for (const GetItem& item : items) n_bytes += item.expected_bytes;
  kvstore::Client::GetEvents events;
  events.on_object = [objects](size_t, const absl::StatusOr<kvstore::FetchedObject>& object) {
    if (object.ok()) {
      objects->emplace_back(std::string(reinterpret_cast<const char*>(object->payload.data()), object->payload.size()));
    } else {
      objects->emplace_back(object.status());
    }
  };
  events.on_done = [objects, finish = OnLoop<absl::StatusOr<Objects>>(std::move(done))](const absl::Status&) {
    finish(std::move(*objects));
  };
  // All of it fits into the window: there is nothing to release.
  client_.Get({.fingerprint = ManifestFingerprint(),
               .items = std::move(items),
               .timeout = kTimeout,
               .window_bytes = n_bytes + 1},
              std::move(events));
}

void Manifests::List(const kvstore::ListQuery& query, Done<kvstore::ListResult> done) {
  client_.List(query, kListTimeout, OnLoop<absl::StatusOr<kvstore::ListResult>>(std::move(done)));
}

void Manifests::Touch(kvstore::TouchQuery query, Done<kvstore::TouchResult> done) {
  client_.Touch(std::move(query), kTimeout, OnLoop<absl::StatusOr<kvstore::TouchResult>>(std::move(done)));
}

void Manifests::DropNamespace(kvstore::NamespaceDrop drop, Done<uint32_t> done) {
  client_.DropNamespace(
      std::move(drop), kTimeout,
      OnLoop<absl::StatusOr<kvstore::DropResult>>([done](const absl::StatusOr<kvstore::DropResult>& dropped) {
        if (!dropped.ok()) return done(dropped.status());
        done(dropped->n_nodes_missed);
      }));
}

void Manifests::DropFrom(std::vector<PlacedKey> keys, size_t first, uint32_t n_missed, Done<uint32_t> done) {
  if (first >= keys.size()) return done(n_missed);
  const size_t end = std::min(keys.size(), first + kvstore::kMaxKeysPerCall);
  std::vector<PlacedKey> some(keys.begin() + static_cast<std::ptrdiff_t>(first),
                              keys.begin() + static_cast<std::ptrdiff_t>(end));
  client_.Drop(std::move(some), kTimeout,
               OnLoop<absl::StatusOr<kvstore::DropResult>>([this, keys = std::move(keys), end, n_missed,
                                                            done](const absl::StatusOr<kvstore::DropResult>& dropped) {
                 if (!dropped.ok()) return done(dropped.status());
                 DropFrom(keys, end, std::max(n_missed, dropped->n_nodes_missed), done);
               }));
}

}  // namespace longshelf::router
