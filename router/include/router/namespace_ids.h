#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "router/auth.h"

namespace longshelf::router {

// What a request's prefixes are shared within: its tenant, or one user of the tenant. At most 55 characters.
std::string NamespaceName(const Tenant& tenant, std::string_view user_id);

// Ids of namespaces, as workers and stores know them: the name, and behind a '#' the generation when the namespace was
// deleted before. At most 64 characters. Immutable; any thread.
class NamespaceIds {
 public:
  // REQUIRES: name is of NamespaceName.
  std::string Of(const std::string& name) const;
  absl::Time GenerationOf(const std::string& name) const;  // the infinite past: never deleted
  NamespaceIds With(const std::string& name, absl::Time generation) const;
  size_t n_deleted() const { return generations_.size(); }

 private:
  std::map<std::string, absl::Time> generations_;
};

}  // namespace longshelf::router
