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
constexpr size_t kVersionBytes = 8;
constexpr uint64_t kCardBytesMax = uint64_t{4} << 20;
constexpr absl::Duration kDeletedIsSaidFor = absl::Hours(24);  // at least: other routers may remember the session

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

namespace {

// The session's prefix, the version, and chance.
BlockKey CardKey(const SessionStore::Names& names, absl::Time version) {
  BlockKey key = names.extent;
  const auto number = static_cast<uint64_t>(absl::ToUnixMillis(version));
  for (size_t i = 0; i < kVersionBytes; ++i) {
    key[kSessionPrefixBytes + i] = static_cast<uint8_t>(number >> (8 * (kVersionBytes - 1 - i)));
  }
  std::random_device random;
  for (size_t i = kSessionPrefixBytes + kVersionBytes; i < key.size(); ++i) key[i] = static_cast<uint8_t>(random());
  return key;
}

absl::Time VersionOf(const BlockKey& card_key) {
  uint64_t number = 0;
  for (size_t i = 0; i < kVersionBytes; ++i) number = number << 8 | card_key[kSessionPrefixBytes + i];
  return absl::FromUnixMillis(static_cast<int64_t>(number));
}

}  // namespace

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

void SessionStore::Put(const std::string& tenant, SessionInfo info, const Session& session, Done<SessionInfo> done) {
  ListAll(tenant, info.id, [=, this, body = BodyToBytes(session)](absl::StatusOr<std::vector<ObjectHead>> versions) {
    if (!versions.ok()) return done(versions.status());
    PutBehind(*versions, tenant, info, body, [=, this](const absl::StatusOr<SessionInfo>& stored) {
      done(stored);
      // What it replaces is of no use any more.
      if (stored.ok() && !versions->empty()) DropKeys(KeysOf(*versions), 0, 0, [](const absl::StatusOr<uint32_t>&) {});
    });
  });
}

void SessionStore::PutBehind(const std::vector<ObjectHead>& versions, const std::string& tenant, SessionInfo info,
                             std::string body, Done<SessionInfo> done) {
  const Names names = NamesOf(tenant, info.id);
  if (!versions.empty()) {
    info.parked_at = std::max(info.parked_at, VersionOf(versions.back().key.hash) + absl::Milliseconds(1));
  }
  const BlockKey card_key = CardKey(names, info.parked_at);
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
  info.body_key = Text(body_key);
  info.body_bytes = body.size();
  const auto put_card = [this, card = item(card_key, names.root, CardToBytes(info)), info, done] {
    PutOne(card, [info, done](const absl::Status& stored) {
      if (!stored.ok()) return done(stored);
      done(info);
    });
  };
  if (body.empty()) return put_card();
  PutOne(item(body_key, card_key, body), [put_card, done](const absl::Status& stored) {
    if (!stored.ok()) return done(stored);
    put_card();
  });
}

// Cards first: what is not named any more need not be whole.
std::vector<PlacedKey> SessionStore::KeysOf(const std::vector<ObjectHead>& versions) const {
  std::vector<PlacedKey> keys;
  for (const ObjectHead& head : versions) keys.push_back({head.key, head.extent});
  for (const ObjectHead& head : versions) {
    keys.push_back({{BodyKeyOf(head.key.hash), ObjectKind::kManifest}, head.extent});
  }
  return keys;
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

void SessionStore::Delete(const std::string& tenant, const SessionInfo& card, absl::Time now,
                          std::vector<PlacedKey> state, std::function<void(absl::Status)> done) {
  ListAll(tenant, card.id, [=, this](absl::StatusOr<std::vector<ObjectHead>> versions) {
    if (!versions.ok()) return done(versions.status());
    SessionInfo deleted;
    deleted.id = card.id;
    deleted.is_deleted = true;
    deleted.parked_at = now;
    deleted.durability = card.durability;
    deleted.retain_until = now + kDeletedIsSaidFor;
    for (const ObjectHead& head : *versions) {
      deleted.retain_until = std::max(deleted.retain_until, head.retain_until);
    }
    std::vector<PlacedKey> keys = KeysOf(*versions);
    keys.insert(keys.end(), state.begin(), state.end());
    // Dropping comes first: it makes the room for saying so.
    DropKeys(std::move(keys), 0, 0, [=, this](absl::StatusOr<uint32_t> n_missed) {
      if (!n_missed.ok()) return done(n_missed.status());
      PutBehind(*versions, tenant, deleted, "", [n_missed = *n_missed, done](const absl::StatusOr<SessionInfo>& said) {
        const bool is_gone = said.ok() || n_missed == 0;
        done(is_gone ? absl::OkStatus() : absl::UnavailableError("a store did not answer"));
      });
    });
  });
}

void SessionStore::Retain(std::vector<PlacedKey> keys, absl::Time retain_until, Durability durability,
                          Done<bool> done) {
  const size_t n = std::min(keys.size(), kvstore::kMaxKeysPerCall);
  kvstore::TouchQuery query;
  query.keys.assign(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(n));
  query.retain_until = retain_until;
  // All that have a copy keep it; how many there should be was the business of whoever made them.
  query.ack = durability == Durability::kMemory ? kvstore::Ack::kMemoryOne : kvstore::Ack::kDurableOne;
  keys.erase(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(n));
  const std::vector<PlacedKey> asked = query.keys;
  client_.Touch(std::move(query), kTimeout,
                OnLoop<absl::StatusOr<kvstore::TouchResult>>([=, this](absl::StatusOr<kvstore::TouchResult> touched) {
                  if (!touched.ok()) return done(touched.status());
                  for (size_t i = 0; i < asked.size(); ++i) {
                    // Some states have no tail.
                    const bool is_needed = asked[i].key.kind != ObjectKind::kTail;
                    if (is_needed && !(i < touched->retained.size() && touched->retained[i])) return done(false);
                  }
                  if (keys.empty()) return done(true);
                  Retain(keys, retain_until, durability, done);
                }));
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
