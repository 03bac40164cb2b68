#include "router/namespace_ids.h"

#include <openssl/sha.h>

#include <algorithm>
#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/namespace_id.h"

namespace longshelf::router {
namespace {

constexpr size_t kUserDigestBytes = 10;

std::string_view TenantOf(std::string_view name) {
  const std::string_view owner = kvstore::OwnerOf(name);
  return owner.empty() ? name : owner;
}

}  // namespace

std::string NamespaceName(const Tenant& tenant, std::string_view user_id) {
  if (user_id.empty() && tenant.salt().empty()) return tenant.name;
  std::string text(user_id);
  // A key's salt makes users of its own. No user_id has a line break, so none can be taken for a salted one.
  if (!tenant.salt().empty()) {
    text = absl::StrCat("salt/1\n", tenant.salt().size(), "\n",
                        absl::string_view(tenant.salt().data(), tenant.salt().size()),
                        absl::string_view(user_id.data(), user_id.size()));
  }
  std::array<uint8_t, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return absl::StrCat(
      tenant.name, ":",
      absl::WebSafeBase64Escape(absl::string_view(reinterpret_cast<const char*>(digest.data()), kUserDigestBytes)));
}

const NamespaceIds::Generations* NamespaceIds::Find(std::string_view tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? nullptr : found->second.get();
}

absl::Time NamespaceIds::GenerationOf(const std::string& name) const {
  const Generations* tenant = Find(TenantOf(name));
  if (tenant == nullptr) return absl::InfinitePast();
  const auto user = tenant->users.find(name);
  return user == tenant->users.end() ? tenant->own : user->second;
}

absl::Time NamespaceIds::LatestOf(const std::string& name) const {
  absl::Time latest = GenerationOf(name);
  if (const Generations* tenant = Find(name); tenant != nullptr) {
    for (const auto& [user, generation] : tenant->users) latest = std::max(latest, generation);
  }
  return latest;
}

std::string NamespaceIds::Of(const std::string& name) const {
  const absl::Time generation = GenerationOf(name);
  if (generation == absl::InfinitePast()) return name;
  return kvstore::NamespaceIdOf(name, static_cast<uint64_t>(absl::ToUnixMillis(generation)));
}

NamespaceIds NamespaceIds::With(const std::vector<Begun>& begun) const {
  NamespaceIds ids = *this;
  std::map<std::string, std::shared_ptr<Generations>, std::less<>> changed;
  for (const Begun& each : begun) {
    const std::string_view name = TenantOf(each.name);
    std::shared_ptr<Generations>& tenant = changed[std::string(name)];
    if (tenant == nullptr) {
      const Generations* before = Find(name);
      tenant = before == nullptr ? std::make_shared<Generations>() : std::make_shared<Generations>(*before);
      ids.n_users_ -= tenant->users.size();
    }
    absl::Time& known =
        name == each.name ? tenant->own : tenant->users.try_emplace(each.name, tenant->own).first->second;
    known = std::max(known, each.generation);
  }
  for (auto& [name, tenant] : changed) {
    std::erase_if(tenant->users, [own = tenant->own](const auto& user) { return user.second <= own; });
    ids.n_users_ += tenant->users.size();
    ids.tenants_[name] = std::move(tenant);
  }
  return ids;
}

size_t NamespaceIds::n_users(std::string_view tenant) const {
  const Generations* found = Find(tenant);
  return found == nullptr ? 0 : found->users.size();
}

}  // namespace longshelf::router
