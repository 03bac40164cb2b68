#include "session_table.h"

#include <algorithm>

namespace longshelf::router {

void SessionEntry::OnEnd(std::string_view finish_reason, std::optional<size_t> on_worker) {
  running = nullptr;
  session.finish_reason = finish_reason;
  worker = on_worker;
  on_ended(shared_from_this());
}

SessionInfo SessionEntry::Info() const {
  SessionInfo info;
  info.id = session.id;
  info.model = session.model;
  info.created = session.created;
  info.n_prompt_tokens = static_cast<uint32_t>(session.prompt->size());
  info.n_output_tokens = static_cast<uint32_t>(session.output.size());
  info.fingerprint = session.fingerprint;
  info.finish_reason = session.finish_reason;
  info.is_running = running != nullptr;
  return info;
}

SessionTable::EntryPtr SessionTable::Find(const Tenant& tenant, const std::string& id) const {
  const auto entries = tenants_.find(tenant.name);
  if (entries == tenants_.end()) return nullptr;
  const auto found = entries->second.all.find(id);
  return found == entries->second.all.end() ? nullptr : found->second;
}

void SessionTable::Add(const EntryPtr& entry) {
  Erase(entry->tenant.name, entry->session.id);
  tenants_[entry->tenant.name].all[entry->session.id] = entry;
}

bool SessionTable::Has(const SessionEntry& entry) const { return Find(entry.tenant, entry.session.id).get() == &entry; }

void SessionTable::SetIdle(const SessionEntry& entry, absl::Time now) {
  TenantEntries& entries = tenants_[entry.tenant.name];
  entries.idle.push_back({entry.session.id, entry.session.n_bytes(), now});
  entries.n_bytes += entries.idle.back().n_bytes;
  n_bytes_ += entries.idle.back().n_bytes;
  ++n_idle_;
  const auto fewer_bytes = [](const auto& a, const auto& b) { return a.second.n_bytes < b.second.n_bytes; };
  const auto fewer = [](const auto& a, const auto& b) { return a.second.idle.size() < b.second.idle.size(); };
  while (n_bytes_ > memory_bytes_) {
    ForgetOldestOf(std::max_element(tenants_.begin(), tenants_.end(), fewer_bytes)->second);
  }
  while (n_idle_ > sessions_max_) ForgetOldestOf(std::max_element(tenants_.begin(), tenants_.end(), fewer)->second);
  std::erase_if(tenants_, [](const auto& each) { return each.second.all.empty(); });
}

void SessionTable::ForgetIdleBefore(absl::Time time) {
  for (auto& [tenant, entries] : tenants_) {
    while (!entries.idle.empty() && entries.idle.front().since < time) ForgetOldestOf(entries);
  }
  std::erase_if(tenants_, [](const auto& each) { return each.second.all.empty(); });
}

void SessionTable::ForgetOldestOf(TenantEntries& entries) {
  entries.all.erase(entries.idle.front().id);
  entries.n_bytes -= entries.idle.front().n_bytes;
  n_bytes_ -= entries.idle.front().n_bytes;
  entries.idle.pop_front();
  --n_idle_;
}

void SessionTable::Forget(const SessionEntry& entry) {
  if (Has(entry)) Erase(entry.tenant.name, entry.session.id);
}

void SessionTable::Erase(const std::string& tenant, const std::string& id) {
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return;
  TenantEntries& entries = found->second;
  const auto idle =
      std::find_if(entries.idle.begin(), entries.idle.end(), [&](const Idle& each) { return each.id == id; });
  if (idle != entries.idle.end()) {
    entries.n_bytes -= idle->n_bytes;
    n_bytes_ -= idle->n_bytes;
    entries.idle.erase(idle);
    --n_idle_;
  }
  entries.all.erase(id);
  if (entries.all.empty()) tenants_.erase(found);
}

}  // namespace longshelf::router
