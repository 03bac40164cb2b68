#include "router/session_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/keys.h"
#include "manifests.h"

namespace longshelf::router {
namespace {

using kvstore::BlockKey;
using kvstore::GetItem;
using kvstore::ObjectHead;
using kvstore::ObjectKind;
using kvstore::PlacedKey;

constexpr uint64_t kCardBytesMax = uint64_t{4} << 20;
constexpr absl::Duration kDeletedIsSaidFor = absl::Hours(24);  // at least: other routers may remember the session

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

}  // namespace

struct SessionStore::Names {
  BlockKey root;    // what the tenant's cards hang off
  BlockKey extent;  // of all versions and their bodies
};

SessionStore::SessionStore(kvstore::Client& client, std::string tenant_secret, Post post)
    : manifests_(std::make_unique<Manifests>(client, std::move(post))), secret_(std::move(tenant_secret)) {}

SessionStore::~SessionStore() = default;

BlockKey SessionStore::Hash(const std::string& text) const { return kvstore::NamespaceSalt(secret_, text); }

BlockKey SessionStore::RootOf(const std::string& tenant) const { return Hash("sessions/1/" + tenant); }

BlockKey SessionStore::BodyKeyOf(const BlockKey& card) const { return Hash("session-body/1/" + KeyText(card)); }

SessionStore::Names SessionStore::NamesOf(const std::string& tenant, const std::string& id) const {
  return {RootOf(tenant), Hash("session/1/" + tenant + "/" + id)};
}

void SessionStore::Put(const std::string& tenant, SessionInfo info, const Session& session, Done<SessionInfo> done) {
  ListAll(tenant, info.id, [=, this, body = BodyToBytes(session)](absl::StatusOr<std::vector<ObjectHead>> versions) {
    if (!versions.ok()) return done(versions.status());
    PutBehind(*versions, tenant, info, body, [=, this](const absl::StatusOr<SessionInfo>& stored) {
      done(stored);
      // What it replaces is of no use any more.
      if (stored.ok() && !versions->empty())
        manifests_->Drop(KeysOf(*versions), [](const absl::StatusOr<uint32_t>&) {});
    });
  });
}

void SessionStore::PutBehind(const std::vector<ObjectHead>& versions, const std::string& tenant, SessionInfo info,
                             std::string body, Done<SessionInfo> done) {
  const Names names = NamesOf(tenant, info.id);
  if (!versions.empty()) {
    info.parked_at = std::max(info.parked_at, VersionOf(versions.back().key.hash) + absl::Milliseconds(1));
  }
  const BlockKey card_key = VersionKey(names.extent, info.parked_at);
  const BlockKey body_key = BodyKeyOf(card_key);
  info.body_key = KeyText(body_key);
  info.body_bytes = body.size();
  const auto item = [&](const BlockKey& hash, const BlockKey& parent, std::string bytes) {
    return Manifests::Item{.hash = hash,
                           .parent = parent,
                           .extent = names.extent,
                           .depth_tokens = info.n_prompt_tokens + info.n_output_tokens,
                           .namespace_id = tenant,
                           .bytes = std::move(bytes),
                           .retain_until = info.retain_until,
                           .ack = AckOf(info.durability)};
  };
  const auto put_card = [this, card = item(card_key, names.root, CardToBytes(info)), info, done] {
    manifests_->Put(card, [info, done](const absl::Status& stored) {
      if (!stored.ok()) return done(stored);
      done(info);
    });
  };
  if (body.empty()) return put_card();
  manifests_->Put(item(body_key, card_key, std::move(body)), [put_card, done](const absl::Status& stored) {
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
  manifests_->List({.parent = names.root, .hash_prefix = VersionPrefix(names.extent)},
                   [done](absl::StatusOr<kvstore::ListResult> listed) {
                     if (!listed.ok()) return done(listed.status());
                     done(std::move(listed->heads));
                   });
}

void SessionStore::GetCards(std::vector<ObjectHead> heads, Done<std::vector<SessionInfo>> done) {
  std::vector<GetItem> items;
  for (const ObjectHead& head : heads) {
    if (head.payload_bytes <= kCardBytesMax) items.push_back({head.key, head.payload_bytes, head.extent});
  }
  if (items.empty()) return done(std::vector<SessionInfo>());
  manifests_->Get(std::move(items), [done](absl::StatusOr<std::vector<absl::StatusOr<std::string>>> objects) {
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
  manifests_->Get({item}, [vocab_size, done](absl::StatusOr<std::vector<absl::StatusOr<std::string>>> objects) {
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
  manifests_->List(query, [this, done](absl::StatusOr<kvstore::ListResult> listed) {
    if (!listed.ok()) return done(listed.status());
    std::vector<ObjectHead> newest;
    for (const ObjectHead& head : listed->heads) {
      const bool is_newer =
          !newest.empty() && std::memcmp(newest.back().key.hash.data(), head.key.hash.data(), kVersionPrefixBytes) == 0;
      if (is_newer) newest.pop_back();
      newest.push_back(head);
    }
    const std::string next =
        listed->more && !newest.empty() ? absl::BytesToHexString(KeyText(newest.back().key.hash)) : "";
    GetCards(std::move(newest), [done, next](absl::StatusOr<std::vector<SessionInfo>> cards) {
      if (!cards.ok()) return done(cards.status());
      done(Page{.sessions = std::move(*cards), .next = next});
    });
  });
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
    manifests_->Drop(std::move(keys), [=, this](absl::StatusOr<uint32_t> n_missed) {
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
  manifests_->Touch(std::move(query), [=, this](absl::StatusOr<kvstore::TouchResult> touched) {
    if (!touched.ok()) return done(touched.status());
    for (size_t i = 0; i < asked.size(); ++i) {
      // Some states have no tail.
      const bool is_needed = asked[i].key.kind != ObjectKind::kTail;
      if (is_needed && !(i < touched->retained.size() && touched->retained[i])) return done(false);
    }
    if (keys.empty()) return done(true);
    Retain(keys, retain_until, durability, done);
  });
}

}  // namespace longshelf::router
