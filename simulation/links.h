#pragma once

#include <vector>

#include "simulation/network.h"

namespace longshelf::simulation {

// Network interfaces: each sends one message after the other, and receives one after the other.
class Links {
 public:
  Links(const Network& network, int n_nics);
  // A message of `bytes` enters interface `nic` now; when its first byte reaches the other side.
  double Send(int nic, double bytes, double now_s);
  // Its first byte is there now; when the last one is.
  double Receive(int nic, double bytes, double now_s);

  // Of the interface that moved most, one way.
  double bytes_max() const;
  double busy_max_s() const { return bytes_max() > 0 ? bytes_max() / bytes_per_s_ : 0; }

 private:
  struct Direction {
    double free_s = 0;
    double bytes = 0;
  };
  const double bytes_per_s_;
  const double latency_s_;
  std::vector<Direction> out_;
  std::vector<Direction> in_;
};

}  // namespace longshelf::simulation
