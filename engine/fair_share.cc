#include "fair_share.h"

#include <algorithm>
#include <tuple>

#include "common/check.h"

namespace longshelf::engine {

double FairShare::Weight(ServiceTier tier) {
  switch (tier) {
    case ServiceTier::kFlex:
      return 1.0;
    case ServiceTier::kDefault:
      return 4.0;
    case ServiceTier::kPriority:
      return 16.0;
  }
  return 1.0;
}

Flow& FairShare::Join(std::string_view tenant, ServiceTier tier) {
  const auto least = std::min_element(flows_.begin(), flows_.end(),
                                      [](const auto& a, const auto& b) { return a.second.served < b.second.served; });
  const double served = least == flows_.end() ? 0.0 : least->second.served;
  const auto [it, is_new] = flows_.try_emplace({std::string(tenant), tier});
  if (is_new) it->second = {.tier = tier, .n_members = 0, .n_running = 0, .served = served};
  ++it->second.n_members;
  return it->second;
}

void FairShare::Leave(Flow& flow) {
  LONGSHELF_CHECK(flow.n_members > 0);
  if (--flow.n_members > 0) return;
  const auto it = std::find_if(flows_.begin(), flows_.end(), [&](const auto& entry) { return &entry.second == &flow; });
  flows_.erase(it);
}

bool FairShare::IsNextBefore(const Flow& a, const Flow& b) {
  return std::make_tuple(a.served, a.n_running / Weight(a.tier)) <
         std::make_tuple(b.served, b.n_running / Weight(b.tier));
}

}  // namespace longshelf::engine
