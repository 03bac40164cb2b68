#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "router/auth.h"

namespace longshelf::router {

// What a request's prefixes are shared within: its tenant, or one user of the tenant. At most 55 characters.
std::string NamespaceName(const Tenant& tenant, std::string_view user_id);

// Ids of namespaces, as workers and stores know them (kvstore/namespace_id.h): the name, and behind a '#' the
// generation when the namespace was deleted before. A deletion of a tenant's is one of its users' too: theirs is the
// later of the two. At most 64 characters. Immutable; any thread. Names are of NamespaceName.
class NamespaceIds {
 public:
  struct Begun {
    std::string name;
    absl::Time generation;
  };

  std::string Of(const std::string& name) const;
  absl::Time GenerationOf(const std::string& name) const;  // the infinite past: never deleted
  // The next generation has to be later: of a tenant, than those of its users too.
  absl::Time LatestOf(const std::string& name) const;
  // Copies no more than the tenants that change, each once.
  NamespaceIds With(const std::vector<Begun>& begun) const;

  // Users that were deleted since their tenant was: of one tenant, and of all.
  size_t n_users(std::string_view tenant) const;
  size_t n_users() const { return n_users_; }

 private:
  struct Generations {
    absl::Time own = absl::InfinitePast();
    std::map<std::string, absl::Time, std::less<>> users;  // by name; later than `own`
  };
  const Generations* Find(std::string_view tenant) const;

  std::map<std::string, std::shared_ptr<const Generations>, std::less<>> tenants_;
  size_t n_users_ = 0;
};

}  // namespace longshelf::router
