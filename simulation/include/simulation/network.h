#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::simulation {

// Between hosts.
struct Network {
  std::string name;
  double bytes_per_s = 0;  // of an interface, each way at the same time
  double latency_s = 0;    // one way
  // Rows are moved by the interface, without work of a processor and while it computes (RDMA). Otherwise by TCP.
  bool offloaded = false;
};

// "25Gbit,20us", "400Gbit,3us,rdma", or one of NetworkPresets(). INVALID_ARGUMENT: says what is wrong and what there
// is.
absl::StatusOr<Network> ParseNetwork(const std::string& text);
std::vector<Network> NetworkPresets();

}  // namespace longshelf::simulation
