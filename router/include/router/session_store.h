#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/client.h"
#include "router/session.h"

namespace longshelf::router {

class Manifests;

// Parked sessions in the KV store, as manifests of one tenant. Nothing is ever changed there: parking again adds a
// version, whose number is the time, and those before it are dropped. Deleting adds one too, and its head says so: its
// depth is 1, that of all others is more.
//
// Names: the cards of a tenant hang off HMAC(secret, "sessions/1/" tenant). A card's hash is 16 bytes of
// HMAC(secret, "session/1/" tenant "/" id), the version (8 bytes, big endian), and 8 random bytes; its body's hash is
// HMAC(secret, "session-body/1/" card hash). So nobody without the secret can name them, and nobody finds another
// tenant's.
//
// Calls come from the loop, and answers come there, through `post`; none after the store is gone.
class SessionStore {
 public:
  using Post = std::function<void(std::function<void()>)>;
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;
  struct Names;

  // The client must outlive this.
  SessionStore(kvstore::Client& client, std::string tenant_secret, Post post);
  ~SessionStore();

  using Heads = std::vector<kvstore::ObjectHead>;
  struct Stored {
    SessionInfo card;
    kvstore::ObjectHead head;  // the card's: its key and extent
    Heads replaced;            // earlier versions: cards that are of no use any more, nor what they name
  };

  // Body first, then the card, which makes it visible. The answer is the card as it is stored: parked_at is later than
  // that of every version that was there, whatever the clocks of routers say.
  // ABORTED: an answer that was parked later than session.stands_on is the session now; or the same one, kept longer.
  // NOT_FOUND: it was deleted since then. RESOURCE_EXHAUSTED or FAILED_PRECONDITION: the store cannot promise it.
  // UNAVAILABLE: it is not there.
  void Put(const std::string& tenant, SessionInfo info, const Session& session, Done<Stored> done);
  // The newest version, which may say that the session was deleted. NOT_FOUND: no store has one. UNAVAILABLE: stores
  // that do not answer may have it.
  void FindCard(const std::string& tenant, const std::string& id, Done<SessionInfo> done);
  struct Listing {
    Heads heads;            // cards of all versions, the newest last
    bool is_whole = false;  // stores that did not answer have no others
  };
  void Versions(const std::string& tenant, const std::string& id, Done<Listing> done);
  // In their order. Of each, NOT_FOUND: dropped meanwhile; DATA_LOSS: damaged, or of another format.
  void GetCards(const Heads& heads, Done<std::vector<absl::StatusOr<SessionInfo>>> done);
  // Of a card. DATA_LOSS: damaged.
  void GetBody(const std::string& tenant, const SessionInfo& card, uint32_t vocab_size, Done<Session> done);

  // Of all of the tenant's sessions that were not deleted the newest cards, some at a time. UNAVAILABLE: stores that do
  // not answer may have others.
  struct HeadPage {
    Heads heads;
    kvstore::BlockKey next{};  // what the next page is behind
    bool more = false;
  };
  // `without`: as if these cards were not there.
  void ListHeads(const std::string& tenant, const kvstore::BlockKey& after, size_t limit,
                 std::set<kvstore::BlockKey> without, Done<HeadPage> done);

  struct Page {
    std::vector<SessionInfo> sessions;
    uint32_t n_unreadable = 0;  // others, whose cards are damaged or of another format
    std::string next;           // where the next page begins; empty: there is none
  };
  // `after` as a page said it, or empty. INVALID_ARGUMENT: it is none.
  void List(const std::string& tenant, const std::string& after, uint32_t limit, Done<Page> done);

  // Removes these versions, and these objects. The number of stores that did not answer.
  void Drop(const Heads& versions, std::vector<kvstore::PlacedKey> objects, Done<uint32_t> done);
  // Leaves a card that says that the session was deleted, for as long as another router, or a store that is down now,
  // may have one of these versions.
  void SayDeleted(const std::string& tenant, const std::string& id, const Heads& versions, Durability durability,
                  absl::Time now, Done<Stored> done);

  // Keeps objects until then. False: not all of them are there, or can be promised.
  void Retain(std::vector<kvstore::PlacedKey> keys, absl::Time retain_until, Durability durability, Done<bool> done);

 private:
  Names NamesOf(const std::string& tenant, const std::string& id) const;
  kvstore::BlockKey RootOf(const std::string& tenant) const;
  kvstore::BlockKey BodyKeyOf(const kvstore::BlockKey& card) const;
  kvstore::BlockKey Hash(const std::string& text) const;
  void FindCard(const std::string& tenant, const std::string& id, uint32_t n_tries, Done<SessionInfo> done);
  struct Offer;
  struct Rival;
  using OfferPtr = std::shared_ptr<Offer>;
  void PutOffer(const OfferPtr& offer);
  void Settle(const OfferPtr& offer, const Heads& versions);
  void Withdraw(const OfferPtr& offer, const absl::Status& why);
  void FindRivals(const Heads& versions, absl::Time stands_on, Done<std::vector<Rival>> done);
  struct HeadWalk;
  void ListMore(const std::shared_ptr<HeadWalk>& walk);
  void PutBehind(const Heads& versions, const std::string& tenant, SessionInfo info, std::string body,
                 Done<Stored> done);
  std::vector<kvstore::PlacedKey> KeysOf(const Heads& versions) const;

  const std::unique_ptr<Manifests> manifests_;
  const std::string secret_;
};

}  // namespace longshelf::router
