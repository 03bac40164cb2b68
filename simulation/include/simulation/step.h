#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "simulation/cluster.h"
#include "simulation/costs.h"
#include "simulation/network.h"
#include "simulation/routing.h"

namespace longshelf::simulation {

// What of a step is simulated. Parts of an exchange begin everywhere at the same time, as benchmarks measure them.
enum class StepPart : uint8_t { kWhole, kDispatch, kCombine };

struct StepSpec {
  Cluster cluster;
  // Hosts that are namespaces of one machine: all ranks share its cores_per_host cores.
  bool one_machine = false;
  ExpertShape experts;
  int n_layers = 1;
  std::vector<int> tokens;  // of each rank
  ComputeCosts compute;
  ExchangeCosts exchange;
  Network network;  // between hosts
  StepPart part = StepPart::kWhole;
};

struct StepTimes {
  double step_s = 0;           // until the last rank is done
  double exposed_s = 0;        // in exchanges and not computing, of all layers: mean over ranks
  double exposed_least_s = 0;  // of the rank that waits least: what is not waiting for others to compute
  double dispatch_s = 0;       // of one layer, mean over ranks: from the first row to the last one taken
  double combine_s = 0;        // of one layer, mean over ranks
  double near_bytes = 0;       // of messages between ranks of a host, all ranks together
  double far_bytes = 0;        // between hosts
  double nic_bytes_max = 0;    // sent or received by the busiest interface, whichever is more
  double nic_busy_s = 0;       // of that interface
};

// Discrete events: a rank works on its core, sends a message to each rank or host in the order in which the program
// does, computes meanwhile, and waits. Messages between hosts share interfaces, in and out; ranks share cores. Every
// layer's routing is drawn. The same arguments give the same times.
StepTimes SimulateStep(const StepSpec& spec, ExpertSampler& sampler, std::mt19937_64& random);

}  // namespace longshelf::simulation
