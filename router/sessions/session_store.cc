#include "router/session_store.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/keys.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::GetItem;
using kvstore::ObjectHead;
using kvstore::ObjectKind;
using kvstore::PlacedKey;

constexpr absl::Duration kTimeout = absl::Seconds(10);
constexpr uint32_t kReplicas = 3;
constexpr size_t kSessionPrefixBytes = 16;
constexpr uint64_t kCardBytesMax = uint64_t{4} << 20;

// All manifests have this one, whatever model their sessions are of.
kvstore::Fingerprint ManifestFingerprint() {
  kvstore::Fingerprint fingerprint{};
  constexpr std::string_view kName = "longshelf sessions/1";
  std::memcpy(fingerprint.data(), kName.data(), kName.size());
  return fingerprint;
}

kvstore::Ack AckOf(Durability durability) {
  switch (durability) {
    case Durability::kDisk:
      return kvstore::Ack::kDurableOne;
    case Durability::kDiskAll:
      return kvstore::Ack::kDurableAll;
    case Durability::kMemory:
      break;
  }
  return kvstore::Ack::kMemoryAll;
}

std::string Text(const BlockKey& key) { return {reinterpret_cast<const char*>(key.data()), key.size()}; }

}  // namespace

struct SessionStore::Names {
  BlockKey root;    // what the tenant's cards hang off
  BlockKey extent;  // of all versions and their bodies
  std::string prefix() const { return Text(extent).substr(0, kSessionPrefixBytes); }
};

SessionStore::SessionStore(kvstore::Client& client, std::string tenant_secret, Post post)
    : client_(client), secret_(std::move(tenant_secret)), post_(std::move(post)) {}

BlockKey SessionStore::Hash(const std::string& text) const { return kvstore::NamespaceSalt(secret_, text); }

BlockKey SessionStore::RootOf(const std::string& tenant) const { return Hash("sessions/1/" + tenant); }

BlockKey SessionStore::BodyKeyOf(const BlockKey& card) const { return Hash("session-body/1/" + Text(card)); }

SessionStore::Names SessionStore::NamesOf(const std::string& tenant, const std::string& id) const {
  return {RootOf(tenant), Hash("session/1/" + tenant + "/" + id)};
}

template <typename T>
std::function<void(T)> SessionStore::OnLoop(std::function<void(T)> callback) const {
  return [post = post_, alive = alive_, callback = std::move(callback)](T result) {
    auto shared = std::make_shared<T>(std::move(result));
    post([alive, callback, shared] {
      if (*alive) callback(std::move(*shared));
    });
  };
}

void SessionStore::PutOne(kvstore::PutItem item, std::function<void(absl::Status)> done) {
  const auto outcome = std::make_shared<absl::Status>(absl::UnavailableError("the KV store gave no answer"));
  const auto finish = OnLoop<absl::Status>(std::move(done));
  const auto put = client_.Put(
      kTimeout,
      {.on_outcome = [outcome](size_t, const absl::StatusOr<kvstore::PutOutcome>& given) { *outcome = given.status(); },
       .on_done = [outcome, finish](const absl::Status&) { finish(*outcome); }});
  put->Offer(std::move(item));
  put->Finish();
}

void SessionStore::Put(const std::string& tenant, SessionInfo info, const Session& session,
                       std::function<void(absl::Status)> done) {
  const Names names = NamesOf(tenant, info.id);
  // Version and chance behind the session's prefix.
  BlockKey card_key = names.extent;
  const auto version = static_cast<uint64_t>(absl::ToUnixMillis(info.parked_at));
  for (size_t i = 0; i < sizeof version; ++i) {
    card_key[kSessionPrefixBytes + i] = static_cast<uint8_t>(version >> (8 * (sizeof version - 1 - i)));
  }
  std::random_device random;
  for (size_t i = kSessionPrefixBytes + sizeof version; i < card_key.size(); ++i) {
    card_key[i] = static_cast<uint8_t>(random());
  }
  const auto item = [&](const BlockKey& hash, const BlockKey& parent, const std::string& bytes) {
    kvstore::PutItem out;
    out.head.key = {hash, ObjectKind::kManifest};
    out.head.parent = parent;
    out.head.extent = names.extent;
    out.head.depth_tokens =
        std::clamp<uint32_t>(info.n_prompt_tokens + info.n_output_tokens, 1, kvstore::kMaxDepthTokens);
    out.head.fingerprint = ManifestFingerprint();
    out.head.object_class = kvstore::ObjectClass::kParked;
    out.head.retain_until = info.retain_until;
    out.head.namespace_id = tenant;
    const auto* const begin = reinterpret_cast<const std::byte*>(bytes.data());
    out.payload = std::make_shared<const std::vector<std::byte>>(begin, begin + bytes.size());
    out.ack = AckOf(info.durability);
    out.n_replicas = kReplicas;
    return out;
  };
  const BlockKey body_key = BodyKeyOf(card_key);
  const std::string body = BodyToBytes(session);
  info.body_key = Text(body_key);
  info.body_bytes = body.size();
  PutOne(item(body_key, card_key, body),
         [this, tenant, id = info.id, card = item(card_key, names.root, CardToBytes(info)), card_key,
          done = std::move(done)](const absl::Status& stored) {
           if (!stored.ok()) return done(stored);
           PutOne(card, [this, tenant, id, card_key, done](const absl::Status& status) {
             done(status);
             if (!status.ok()) return;
             // What it replaces is of no use any more.
             ListAll(tenant, id, [this, card_key](absl::StatusOr<std::vector<ObjectHead>> versions) {
               std::vector<PlacedKey> old;
               for (const ObjectHead& head : versions.ok() ? *versions : std::vector<ObjectHead>()) {
                 if (head.key.hash >= card_key) continue;
                 old.push_back({head.key, head.extent});
                 old.push_back({{BodyKeyOf(head.key.hash), ObjectKind::kManifest}, head.extent});
               }
               if (!old.empty()) DropKeys(std::move(old), 0, 0, [](const absl::StatusOr<uint32_t>&) {});
             });
           });
         });
}

void SessionStore::ListAll(const std::string& tenant, const std::string& id, Done<std::vector<ObjectHead>> done) {
  const Names names = NamesOf(tenant, id);
  client_.List({.parent = names.root, .hash_prefix = names.prefix()}, kTimeout,
               OnLoop<absl::StatusOr<kvstore::ListResult>>([done](absl::StatusOr<kvstore::ListResult> listed) {
                 if (!listed.ok()) return done(listed.status());
                 done(std::move(listed->heads));
               }));
}

// A Get under way: objects come on the client's threads, one at a time.
struct SessionStore::Fetch {
  std::vector<absl::StatusOr<std::string>> objects;
};

void SessionStore::GetObjects(std::vector<GetItem> items, Done<std::vector<absl::StatusOr<std::string>>> done) {
  using Objects = std::vector<absl::StatusOr<std::string>>;
  const auto fetch = std::make_shared<Fetch>();
  uint64_t n_bytes = 0;
  for (const GetItem& item : items) n_bytes += item.expected_bytes;
  kvstore::Client::GetEvents events;
  events.on_object = [fetch](size_t, const absl::StatusOr<kvstore::FetchedObject>& object) {
    if (object.ok()) {
      fetch->objects.emplace_back(
          std::string(reinterpret_cast<const char*>(object->payload.data()), object->payload.size()));
    } else {
      fetch->objects.emplace_back(object.status());
    }
  };
  events.on_done = [fetch, finish = OnLoop<absl::StatusOr<Objects>>(std::move(done))](const absl::Status&) {
    finish(std::move(fetch->objects));
  };
  // All of it fits into the window: there is nothing to release.
  client_.Get({.fingerprint = ManifestFingerprint(),
               .items = std::move(items),
               .timeout = kTimeout,
               .window_bytes = n_bytes + 1},
              std::move(events));
}

void SessionStore::GetCards(std::vector<ObjectHead> heads, Done<std::vector<SessionInfo>> done) {
  std::vector<GetItem> items;
  for (const ObjectHead& head : heads) {
    if (head.payload_bytes <= kCardBytesMax) items.push_back({head.key, head.payload_bytes, head.extent});
  }
  if (items.empty()) return done(std::vector<SessionInfo>());
  GetObjects(std::move(items), [done](absl::StatusOr<std::vector<absl::StatusOr<std::string>>> objects) {
    std::vector<SessionInfo> cards;
    absl::Status failure;
    for (const auto& object : *objects) {
      auto card = object.ok() ? CardFromBytes(*object) : absl::StatusOr<SessionInfo>(object.status());
      if (card.ok()) {
        cards.push_back(*std::move(card));
      } else if (!absl::IsNotFound(card.status())) {  // dropped meanwhile
        failure = card.status();
      }
    }
    if (cards.empty() && !failure.ok()) return done(failure);
    done(std::move(cards));
  });
}

void SessionStore::FindCard(const std::string& tenant, const std::string& id, Done<SessionInfo> done) {
  ListAll(tenant, id, [this, done](absl::StatusOr<std::vector<ObjectHead>> versions) {
    if (!versions.ok()) return done(versions.status());
    if (versions->empty()) return done(absl::NotFoundError("no such session"));
    GetCards({versions->back()}, [done](absl::StatusOr<std::vector<SessionInfo>> cards) {
      if (!cards.ok()) return done(cards.status());
      if (cards->empty()) return done(absl::NotFoundError("no such session"));
      done(std::move(cards->front()));
    });
  });
}

void SessionStore::GetBody(const std::string& tenant, const SessionInfo& card, uint32_t vocab_size,
                           Done<Session> done) {
  if (card.body_bytes == 0 || card.body_bytes > kvstore::kMaxPayloadBytes) {
    return done(absl::DataLossError("a parked session is damaged: the size of its body"));
  }
  GetItem item;
  std::memcpy(item.key.hash.data(), card.body_key.data(), item.key.hash.size());
  item.key.kind = ObjectKind::kManifest;
  item.expected_bytes = card.body_bytes;
  item.extent = NamesOf(tenant, card.id).extent;
  GetObjects({item}, [vocab_size, done](absl::StatusOr<std::vector<absl::StatusOr<std::string>>> objects) {
    if (objects->empty() || !objects->front().ok()) {
      const absl::Status why = objects->empty() ? absl::UnavailableError("no answer") : objects->front().status();
      // Its card was there.
      return done(absl::IsNotFound(why)
                      ? absl::UnavailableError("the KV stores that have the session cannot be reached")
                      : why);
    }
    done(BodyFromBytes(*objects->front(), vocab_size));
  });
}

void SessionStore::List(const std::string& tenant, const std::string& after, uint32_t limit, Done<Page> done) {
  kvstore::ListQuery query{.parent = RootOf(tenant), .limit = limit};
  if (!after.empty()) {
    const std::string bytes = absl::HexStringToBytes(after);
    if (after.size() != 2 * query.after.size() || bytes.size() != query.after.size()) {
      return done(absl::InvalidArgumentError("after: not what a page of this list said"));
    }
    std::memcpy(query.after.data(), bytes.data(), bytes.size());
  }
  client_.List(query, kTimeout,
               OnLoop<absl::StatusOr<kvstore::ListResult>>([this, done](absl::StatusOr<kvstore::ListResult> listed) {
                 if (!listed.ok()) return done(listed.status());
                 std::vector<ObjectHead> newest;
                 for (const ObjectHead& head : listed->heads) {
                   const bool is_newer = !newest.empty() && std::memcmp(newest.back().key.hash.data(),
                                                                        head.key.hash.data(), kSessionPrefixBytes) == 0;
                   if (is_newer) newest.pop_back();
                   newest.push_back(head);
                 }
                 const std::string next =
                     listed->more && !newest.empty() ? absl::BytesToHexString(Text(newest.back().key.hash)) : "";
                 GetCards(std::move(newest), [done, next](absl::StatusOr<std::vector<SessionInfo>> cards) {
                   if (!cards.ok()) return done(cards.status());
                   done(Page{.sessions = std::move(*cards), .next = next});
                 });
               }));
}

void SessionStore::Drop(const std::string& tenant, const std::string& id, std::vector<PlacedKey> also,
                        Done<uint32_t> done) {
  ListAll(tenant, id, [this, also = std::move(also), done](absl::StatusOr<std::vector<ObjectHead>> versions) {
    if (!versions.ok()) return done(versions.status());
    std::vector<PlacedKey> keys;
    // Cards first: what is not named any more need not be whole.
    for (const ObjectHead& head : *versions) keys.push_back({head.key, head.extent});
    for (const ObjectHead& head : *versions) {
      keys.push_back({{BodyKeyOf(head.key.hash), ObjectKind::kManifest}, head.extent});
    }
    keys.insert(keys.end(), also.begin(), also.end());
    DropKeys(std::move(keys), 0, 0, done);
  });
}

void SessionStore::DropKeys(std::vector<PlacedKey> keys, size_t first, uint32_t n_missed, Done<uint32_t> done) {
  if (first >= keys.size()) return done(n_missed);
  const size_t end = std::min(keys.size(), first + kvstore::kMaxKeysPerCall);
  std::vector<PlacedKey> some(keys.begin() + static_cast<std::ptrdiff_t>(first),
                              keys.begin() + static_cast<std::ptrdiff_t>(end));
  client_.Drop(std::move(some), kTimeout,
               OnLoop<absl::StatusOr<kvstore::DropResult>>([this, keys = std::move(keys), end, n_missed,
                                                            done](const absl::StatusOr<kvstore::DropResult>& dropped) {
                 if (!dropped.ok()) return done(dropped.status());
                 DropKeys(keys, end, std::max(n_missed, dropped->n_nodes_missed), done);
               }));
}

}  // namespace longshelf::router
