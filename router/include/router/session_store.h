#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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
// version, whose number is the time, and drops those before it.
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

  // Body first, then the card, which makes it visible. The answer is the card as it is stored: parked_at is later than
  // that of every version that was there, whatever the clocks of routers say.
  // RESOURCE_EXHAUSTED or FAILED_PRECONDITION: the store cannot promise it. UNAVAILABLE: it is not there.
  void Put(const std::string& tenant, SessionInfo info, const Session& session, Done<SessionInfo> done);
  // The newest version, which may say that the session was deleted. NOT_FOUND.
  void FindCard(const std::string& tenant, const std::string& id, Done<SessionInfo> done);
  // Of a card. DATA_LOSS: damaged.
  void GetBody(const std::string& tenant, const SessionInfo& card, uint32_t vocab_size, Done<Session> done);

  struct Page {
    std::vector<SessionInfo> sessions;
    std::string next;  // where the next page begins; empty: there is none
  };
  // `after` as a page said it, or empty. INVALID_ARGUMENT: it is none.
  void List(const std::string& tenant, const std::string& after, uint32_t limit, Done<Page> done);

  // Removes all versions of a session, and these objects, and leaves a card that says so for as long as another router,
  // or a store that is down now, may have an earlier one. UNAVAILABLE: a store did not answer, and none could be told.
  void Delete(const std::string& tenant, const SessionInfo& card, absl::Time now, std::vector<kvstore::PlacedKey> state,
              std::function<void(absl::Status)> done);

  // Keeps objects until then. False: not all of them are there, or can be promised.
  void Retain(std::vector<kvstore::PlacedKey> keys, absl::Time retain_until, Durability durability, Done<bool> done);

 private:
  Names NamesOf(const std::string& tenant, const std::string& id) const;
  kvstore::BlockKey RootOf(const std::string& tenant) const;
  kvstore::BlockKey BodyKeyOf(const kvstore::BlockKey& card) const;
  kvstore::BlockKey Hash(const std::string& text) const;
  void ListAll(const std::string& tenant, const std::string& id, Done<std::vector<kvstore::ObjectHead>> done);
  void GetCards(std::vector<kvstore::ObjectHead> heads, Done<std::vector<SessionInfo>> done);
  void PutBehind(const std::vector<kvstore::ObjectHead>& versions, const std::string& tenant, SessionInfo info,
                 std::string body, Done<SessionInfo> done);
  std::vector<kvstore::PlacedKey> KeysOf(const std::vector<kvstore::ObjectHead>& versions) const;

  const std::unique_ptr<Manifests> manifests_;
  const std::string secret_;
};

}  // namespace longshelf::router
