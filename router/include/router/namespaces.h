#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "kvstore/client.h"
#include "router/api_error.h"
#include "router/namespace_ids.h"

namespace longshelf::router {

class Manifests;

// Deletes namespaces. A namespace's salt is made of its id, and its id of its generation: deleting it begins the next
// generation, and from then on nothing that was computed before can be named any more, by anybody, wherever a copy of
// it is. Then the earlier generations' objects are dropped from the stores, which take no more of them; so are its
// session manifests, whose names hang off the same id. What is done to a tenant's namespace is done to its users'.
//
// Generations are manifests of their own, which all routers read every two seconds. Owner: the router loop.
class Namespaces {
 public:
  using Post = std::function<void(std::function<void()>)>;
  struct Deleted {
    uint32_t n_stores_missed = 0;  // did not answer: they are asked again, for an hour
  };
  // Users that can be deleted one by one, of a tenant and of all: then only the tenant as a whole can.
  static constexpr size_t kTenantUsersMax = 1000;
  static constexpr size_t kUsersMax = 100'000;

  // The client must outlive this.
  Namespaces(kvstore::Client& client, std::string tenant_secret, Clock& clock, Post post);
  ~Namespaces();

  // Never null.
  const std::shared_ptr<const NamespaceIds>& ids() const { return ids_; }
  // All records were read once: from now on requests have the generations that others began.
  bool has_read() const { return has_read_; }
  // Or the stores have not let us for so long that going on without is the lesser evil.
  bool is_ready() const { return has_read_ || has_given_up_; }
  // A few times a second.
  void Tick();
  // `name`: as NamespaceName made it. 503, 507: the store did not take the new generation, and the old one goes on;
  // with 507 the stores have dropped what they had of it. 409: too many users.
  void Delete(const std::string& name, std::function<void(std::variant<Deleted, ApiError>)> done);

 private:
  struct Record;
  struct NewRecord;
  using Done = std::function<void(std::variant<Deleted, ApiError>)>;
  using Stored = std::function<void(const absl::Status&)>;
  struct Known {
    std::string name;
    uint64_t pass = 0;  // that has seen it last
  };
  struct Drop {
    absl::Time generation;  // earlier ones are dropped
    absl::Time until;
  };

  // One pass over all records, page by page.
  void BeginPass();
  void Ask(const kvstore::BlockKey& after);
  void Read(std::vector<kvstore::ObjectHead> heads, std::function<void()> next);
  void Take(const kvstore::ObjectHead& head, const std::string& bytes);
  void EndPass(bool is_all);

  void Know(const kvstore::BlockKey& record, const std::string& name);
  void Forget(const kvstore::BlockKey& record);
  // Those of the name and of its users that a later generation has made useless.
  void DropOlder(const std::string& name, absl::Time generation);
  void DropLater(const std::string& name, absl::Time generation);
  void DropNext(const std::string& after);
  void Put(const NewRecord& record, Stored stored);
  void Begin(const NewRecord& record, const Done& done);

  const std::unique_ptr<Manifests> manifests_;
  const std::string secret_;
  Clock& clock_;
  std::shared_ptr<const NamespaceIds> ids_ = std::make_shared<const NamespaceIds>();
  std::map<kvstore::BlockKey, Known> known_;                     // records that were read and are still there
  std::set<std::pair<std::string, kvstore::BlockKey>> by_name_;  // the same
  std::map<std::string, Drop> to_drop_;                          // names whose earlier generations were deleted lately
  absl::Time next_ask_ = absl::InfinitePast();
  absl::Time next_drop_ = absl::InfinitePast();
  absl::Time give_up_at_ = absl::InfiniteFuture();
  bool is_asking_ = false;
  bool is_dropping_ = false;
  bool has_read_ = false;
  bool has_given_up_ = false;
  // Of the pass under way.
  uint64_t pass_ = 0;
  bool is_whole_ = true;
  std::vector<NamespaceIds::Begun> begun_;
};

}  // namespace longshelf::router
