#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "engine/request.h"

namespace longshelf::engine {

// The requests of one tenant in one service tier that are in the engine now.
struct Flow {
  ServiceTier tier = ServiceTier::kDefault;
  uint32_t n_members = 0;  // waiting and running
  uint32_t n_running = 0;
  double served = 0.0;  // cost of what it was given, divided by its weight; comparable between flows
};

// Who is next: start-time fair queueing over flows. A flow's `served` grows with what is computed for it; the flow with
// the least is next, and one that comes anew begins at the least of those that are there, so that nobody saves up by
// being idle and nobody is made to wait for what happened before. Tiers are weights, not precedence: a flow of weight 1
// beside one of weight 4 gets a fifth, never nothing.
// Owner thread: the leader's engine thread.
class FairShare {
 public:
  // The flow lives until its last member has left.
  Flow& Join(std::string_view tenant, ServiceTier tier);
  void Leave(Flow& flow);
  static void Charge(Flow& flow, double cost) { flow.served += cost / Weight(flow.tier); }
  static double Weight(ServiceTier tier);
  // A strict order by served, then by running sequences per weight.
  static bool IsNextBefore(const Flow& a, const Flow& b);

  size_t n_flows() const { return flows_.size(); }

 private:
  std::map<std::pair<std::string, ServiceTier>, Flow, std::less<>> flows_;
};

}  // namespace longshelf::engine
