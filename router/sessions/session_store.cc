#include "router/session_store.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>
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

constexpr uint32_t kFindsMax = 3;
constexpr size_t kPutsMax = 3;
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

constexpr uint32_t kDeletedDepth = 1;

bool SaysDeleted(const ObjectHead& card) { return card.depth_tokens == kDeletedDepth; }

bool AreOfOneSession(const ObjectHead& a, const ObjectHead& b) {
  return std::memcmp(a.key.hash.data(), b.key.hash.data(), kVersionPrefixBytes) == 0;
}

absl::Status NotWhole() { return absl::UnavailableError("KV stores that may have it do not answer"); }

absl::Status Overtaken() { return absl::AbortedError("another answer of the session was parked later"); }

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

// What is being put.
struct SessionStore::Offer {
  std::string tenant;
  SessionInfo info;
  std::string body;
  absl::Time stands_on;
  Done<Stored> done;
  Heads versions;  // that were there
  Heads puts;      // its own
  Stored stored;   // the last of them
};

// A version that need not be older than what is being put.
struct SessionStore::Rival {
  ObjectHead head;
  absl::Time answer_at;

  // The same for everybody, so that of two that see each other one stays.
  bool IsNewerThan(const Stored& stored) const {
    return std::tie(answer_at, head.key.hash) > std::tie(stored.card.answer_at, stored.head.key.hash);
  }
};

void SessionStore::Put(const std::string& tenant, SessionInfo info, const Session& session, Done<Stored> done) {
  info.answer_at = session.answer_at;
  const auto offer = std::make_shared<Offer>(Offer{.tenant = tenant,
                                                   .info = std::move(info),
                                                   .body = BodyToBytes(session),
                                                   .stands_on = session.stands_on,
                                                   .done = std::move(done),
                                                   .versions = {},
                                                   .puts = {},
                                                   .stored = {}});
  // When it is not whole, and misses one of this session, the stores that are to take the card do not answer either.
  Versions(tenant, offer->info.id, [this, offer](const absl::StatusOr<Listing>& versions) {
    if (!versions.ok()) return offer->done(versions.status());
    offer->versions = versions->heads;
    FindRivals(versions->heads, offer->stands_on, [this, offer](const absl::StatusOr<std::vector<Rival>>& rivals) {
      if (!rivals.ok()) return offer->done(rivals.status());
      for (const Rival& rival : *rivals) {
        if (rival.answer_at > offer->stands_on) return offer->done(Overtaken());
      }
      PutOffer(offer);
    });
  });
}

void SessionStore::PutOffer(const OfferPtr& offer) {
  PutBehind(offer->versions, offer->tenant, offer->info, offer->body, [this, offer](absl::StatusOr<Stored> stored) {
    if (!stored.ok() && !offer->puts.empty()) return offer->done(offer->stored);
    if (!stored.ok()) return offer->done(stored.status());
    offer->puts.push_back(stored->head);
    offer->info.answer_at = stored->card.answer_at;
    offer->stored = *std::move(stored);
    // Others may have come in between.
    Versions(offer->tenant, offer->info.id, [this, offer](const absl::StatusOr<Listing>& now) {
      Settle(offer, now.ok() ? now->heads : offer->versions);
    });
  });
}

// The newest answer stays, and of its cards the last one; but a session that was deleted meanwhile stays deleted.
void SessionStore::Settle(const OfferPtr& offer, const Heads& versions) {
  Heads others = versions;
  std::erase_if(others, [&](const ObjectHead& each) { return each.key == offer->stored.head.key; });
  FindRivals(others, offer->stands_on, [this, offer, others](const absl::StatusOr<std::vector<Rival>>& rivals) {
    if (!rivals.ok()) return Withdraw(offer, rivals.status());
    for (const Rival& rival : *rivals) {
      if (rival.IsNewerThan(offer->stored)) return Withdraw(offer, Overtaken());
    }
    offer->stored.replaced = others;
    const bool is_last = others.empty() || others.back().key.hash < offer->stored.head.key.hash;
    if (is_last || offer->puts.size() >= kPutsMax) return offer->done(offer->stored);
    // An older answer, kept longer, lies behind it, and a store that is down may keep that.
    offer->versions = others;
    offer->versions.push_back(offer->stored.head);
    std::sort(offer->versions.begin(), offer->versions.end(),
              [](const ObjectHead& a, const ObjectHead& b) { return a.key.hash < b.key.hash; });
    PutOffer(offer);
  });
}

void SessionStore::Withdraw(const OfferPtr& offer, const absl::Status& why) {
  manifests_->Drop(KeysOf(offer->puts), [](const absl::StatusOr<uint32_t>&) {});
  offer->done(why);
}

// NOT_FOUND: the session was deleted later than `stands_on`.
void SessionStore::FindRivals(const Heads& versions, absl::Time stands_on, Done<std::vector<Rival>> done) {
  Heads newer;
  for (const ObjectHead& each : versions) {
    if (VersionOf(each.key.hash) <= stands_on) continue;
    if (SaysDeleted(each)) return done(absl::NotFoundError("the session was deleted"));
    newer.push_back(each);
  }
  if (newer.empty()) return done(std::vector<Rival>());
  GetCards(newer, [newer, done](const absl::StatusOr<std::vector<absl::StatusOr<SessionInfo>>>& cards) {
    std::vector<Rival> rivals;
    for (size_t i = 0; i < newer.size(); ++i) {
      const absl::StatusOr<SessionInfo>& card = (*cards)[i];
      if (absl::IsNotFound(card.status())) continue;  // replaced since it was listed
      if (!card.ok() && !absl::IsDataLoss(card.status())) return done(card.status());
      rivals.push_back({newer[i], card.ok() ? card->answer_at : VersionOf(newer[i].key.hash)});
    }
    done(std::move(rivals));
  });
}

void SessionStore::PutBehind(const Heads& versions, const std::string& tenant, SessionInfo info, std::string body,
                             Done<Stored> done) {
  const Names names = NamesOf(tenant, info.id);
  if (!versions.empty()) {
    info.parked_at = std::max(info.parked_at, VersionOf(versions.back().key.hash) + absl::Milliseconds(1));
  }
  if (info.answer_at == absl::InfinitePast()) info.answer_at = info.parked_at;
  Stored stored;
  stored.head.key = {VersionKey(names.extent, info.parked_at), ObjectKind::kManifest};
  stored.head.extent = names.extent;
  const BlockKey card_key = stored.head.key.hash;
  const BlockKey body_key = BodyKeyOf(card_key);
  info.body_key = KeyText(body_key);
  info.body_bytes = body.size();
  const auto item = [&](const BlockKey& hash, const BlockKey& parent, std::string bytes) {
    const uint32_t n_tokens = info.n_prompt_tokens + info.n_output_tokens;
    return Manifests::Item{.hash = hash,
                           .parent = parent,
                           .extent = names.extent,
                           .depth_tokens = info.is_deleted ? kDeletedDepth : kDeletedDepth + std::max(n_tokens, 1u),
                           .namespace_id = tenant,
                           .bytes = std::move(bytes),
                           .retain_until = info.retain_until,
                           .ack = AckOf(info.durability)};
  };
  stored.card = info;
  const auto finish = [this, stored, done](const absl::Status& put) {
    if (put.ok()) return done(stored);
    // Some stores may have taken it.
    manifests_->Drop(KeysOf({stored.head}), [done, put](const absl::StatusOr<uint32_t>&) { done(put); });
  };
  const auto put_card = [this, card = item(card_key, names.root, CardToBytes(info)), finish] {
    manifests_->Put(card, finish);
  };
  if (body.empty()) return put_card();
  manifests_->Put(item(body_key, card_key, std::move(body)),
                  [put_card, finish](const absl::Status& put) { put.ok() ? put_card() : finish(put); });
}

// Cards first: what is not named any more need not be whole.
std::vector<PlacedKey> SessionStore::KeysOf(const Heads& versions) const {
  std::vector<PlacedKey> keys;
  for (const ObjectHead& head : versions) keys.push_back({head.key, head.extent});
  for (const ObjectHead& head : versions) {
    keys.push_back({{BodyKeyOf(head.key.hash), ObjectKind::kManifest}, head.extent});
  }
  return keys;
}

void SessionStore::Versions(const std::string& tenant, const std::string& id, Done<Listing> done) {
  const Names names = NamesOf(tenant, id);
  manifests_->List({.parent = names.root, .hash_prefix = VersionPrefix(names.extent)},
                   [done](absl::StatusOr<kvstore::ListResult> listed) {
                     if (!listed.ok()) return done(listed.status());
                     done(Listing{.heads = std::move(listed->heads), .is_whole = Manifests::IsWhole(*listed)});
                   });
}

void SessionStore::GetCards(const Heads& heads, Done<std::vector<absl::StatusOr<SessionInfo>>> done) {
  std::vector<GetItem> items;
  std::vector<absl::StatusOr<SessionInfo>> cards(heads.size(), absl::DataLossError("a card is too large"));
  std::vector<size_t> places;
  for (size_t i = 0; i < heads.size(); ++i) {
    if (heads[i].payload_bytes > kCardBytesMax) continue;
    items.push_back({heads[i].key, heads[i].payload_bytes, heads[i].extent});
    places.push_back(i);
  }
  if (items.empty()) return done(std::move(cards));
  manifests_->Get(std::move(items), [=](const absl::StatusOr<std::vector<absl::StatusOr<std::string>>>& read) mutable {
    for (size_t i = 0; i < places.size(); ++i) {
      const auto bytes = i < read->size() ? (*read)[i] : absl::UnavailableError("no answer");
      cards[places[i]] = bytes.ok() ? CardFromBytes(*bytes) : absl::StatusOr<SessionInfo>(bytes.status());
    }
    done(std::move(cards));
  });
}

void SessionStore::FindCard(const std::string& tenant, const std::string& id, Done<SessionInfo> done) {
  FindCard(tenant, id, kFindsMax, std::move(done));
}

void SessionStore::FindCard(const std::string& tenant, const std::string& id, uint32_t n_tries,
                            Done<SessionInfo> done) {
  Versions(tenant, id, [=, this](const absl::StatusOr<Listing>& versions) {
    if (!versions.ok()) return done(versions.status());
    if (versions->heads.empty()) return done(versions->is_whole ? absl::NotFoundError("no such session") : NotWhole());
    GetCards({versions->heads.back()}, [=, this](absl::StatusOr<std::vector<absl::StatusOr<SessionInfo>>> cards) {
      if (!absl::IsNotFound(cards->front().status())) return done(std::move(cards->front()));
      // Parked again since it was listed.
      if (n_tries > 1) return FindCard(tenant, id, n_tries - 1, done);
      done(absl::UnavailableError("the KV stores that have the session's card cannot be reached"));
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

struct SessionStore::HeadWalk {
  kvstore::ListQuery query;
  size_t limit = 0;
  std::set<BlockKey> without;
  Done<HeadPage> done;
  Heads found;                       // at most one more than wanted: there is a next page then
  std::optional<ObjectHead> newest;  // so far, of the session that is being read

  void EndSession() {
    if (newest.has_value() && !SaysDeleted(*newest) && found.size() <= limit) found.push_back(*newest);
    newest.reset();
  }
  void Take(const Heads& heads) {
    for (const ObjectHead& head : heads) {
      if (without.contains(head.key.hash)) continue;
      if (newest.has_value() && !AreOfOneSession(*newest, head)) EndSession();
      newest = head;
    }
  }
  void Answer() {
    HeadPage page;
    page.more = found.size() > limit;
    if (page.more) found.pop_back();
    page.heads = std::move(found);
    if (!page.heads.empty()) {
      page.next = page.heads.back().key.hash;
      // Behind all of its versions.
      std::fill(page.next.begin() + kVersionPrefixBytes, page.next.end(), uint8_t{0xff});
    }
    done(std::move(page));
  }
};

void SessionStore::ListHeads(const std::string& tenant, const BlockKey& after, size_t limit, std::set<BlockKey> without,
                             Done<HeadPage> done) {
  const auto walk = std::make_shared<HeadWalk>();
  walk->query = {.parent = RootOf(tenant),
                 .after = after,
                 .limit = static_cast<uint32_t>(std::min(limit + 1, kvstore::kMaxListed))};
  walk->limit = limit;
  walk->without = std::move(without);
  walk->done = std::move(done);
  ListMore(walk);
}

void SessionStore::ListMore(const std::shared_ptr<HeadWalk>& walk) {
  manifests_->List(walk->query, [this, walk](const absl::StatusOr<kvstore::ListResult>& listed) {
    if (!listed.ok()) return walk->done(listed.status());
    if (!Manifests::IsWhole(*listed)) return walk->done(NotWhole());
    walk->Take(listed->heads);
    const bool is_all = !listed->more || listed->heads.empty();
    if (is_all) walk->EndSession();
    if (is_all || walk->found.size() > walk->limit) return walk->Answer();
    walk->query.after = listed->heads.back().key.hash;
    walk->query.limit = kvstore::kMaxListed;  // many that were deleted lie there
    ListMore(walk);
  });
}

void SessionStore::List(const std::string& tenant, const std::string& after, uint32_t limit, Done<Page> done) {
  BlockKey behind{};
  if (!after.empty()) {
    const std::string bytes = absl::HexStringToBytes(after);
    if (after.size() != 2 * behind.size() || bytes.size() != behind.size()) {
      return done(absl::InvalidArgumentError("after: not what a page of this list said"));
    }
    std::memcpy(behind.data(), bytes.data(), bytes.size());
  }
  ListHeads(tenant, behind, limit, {}, [this, done](const absl::StatusOr<HeadPage>& listed) {
    if (!listed.ok()) return done(listed.status());
    Page page;
    if (listed->more) page.next = absl::BytesToHexString(KeyText(listed->next));
    GetCards(listed->heads, [done, page](absl::StatusOr<std::vector<absl::StatusOr<SessionInfo>>> cards) mutable {
      for (absl::StatusOr<SessionInfo>& card : *cards) {
        if (card.ok()) {
          page.sessions.push_back(*std::move(card));
        } else if (absl::IsDataLoss(card.status())) {
          ++page.n_unreadable;
        } else if (!absl::IsNotFound(card.status())) {
          return done(card.status());
        }
      }
      done(std::move(page));
    });
  });
}

void SessionStore::Drop(const Heads& versions, std::vector<PlacedKey> objects, Done<uint32_t> done) {
  std::vector<PlacedKey> keys = KeysOf(versions);
  keys.insert(keys.end(), objects.begin(), objects.end());
  manifests_->Drop(std::move(keys), std::move(done));
}

void SessionStore::SayDeleted(const std::string& tenant, const std::string& id, const Heads& versions,
                              Durability durability, absl::Time now, Done<Stored> done) {
  SessionInfo deleted;
  deleted.id = id;
  deleted.is_deleted = true;
  deleted.parked_at = now;
  deleted.durability = durability;
  deleted.retain_until = now + kDeletedIsSaidFor;
  for (const ObjectHead& head : versions) deleted.retain_until = std::max(deleted.retain_until, head.retain_until);
  PutBehind(versions, tenant, deleted, "", std::move(done));
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
