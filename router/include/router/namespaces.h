#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
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
// it is. Then the old generation's objects are dropped from the stores; so are its session manifests, whose names hang
// off the same id.
//
// Generations are manifests of their own, which all routers read every two seconds. Owner: the router loop.
class Namespaces {
 public:
  using Post = std::function<void(std::function<void()>)>;
  struct Deleted {
    uint32_t n_stores_missed = 0;  // did not answer: they are asked again, for an hour
  };

  // The client must outlive this.
  Namespaces(kvstore::Client& client, std::string tenant_secret, Clock& clock, Post post);
  ~Namespaces();

  // Never null.
  const std::shared_ptr<const NamespaceIds>& ids() const { return ids_; }
  // The stores were asked once, whatever they said: from now on requests have the generations that others began.
  bool is_ready() const { return is_ready_; }
  // A few times a second.
  void Tick();
  // `name`: as NamespaceName made it. 503, 507: the store did not take the new generation, and nothing has changed.
  void Delete(const std::string& name, std::function<void(std::variant<Deleted, ApiError>)> done);

 private:
  struct Record;
  void Ask(const kvstore::BlockKey& after);
  void Take(std::vector<kvstore::ObjectHead> heads);
  void Learn(const std::string& name, absl::Time generation);
  void DropOld();
  void ForgetOlder(const kvstore::BlockKey& record);

  const std::unique_ptr<Manifests> manifests_;
  const std::string secret_;
  Clock& clock_;
  std::shared_ptr<const NamespaceIds> ids_ = std::make_shared<const NamespaceIds>();
  std::map<kvstore::BlockKey, absl::Time> known_;    // records that were read
  std::map<std::string, absl::Time> to_drop_until_;  // ids of old generations
  absl::Time next_ask_ = absl::InfinitePast();
  absl::Time next_drop_ = absl::InfinitePast();
  bool is_asking_ = false;
  bool is_ready_ = false;
};

}  // namespace longshelf::router
