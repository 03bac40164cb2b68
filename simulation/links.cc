#include "links.h"

#include <algorithm>

namespace longshelf::simulation {

Links::Links(const Network& network, int n_nics)
    : bytes_per_s_(network.bytes_per_s),
      latency_s_(network.latency_s),
      out_(static_cast<size_t>(n_nics)),
      in_(static_cast<size_t>(n_nics)) {}

double Links::Send(int nic, double bytes, double now_s) {
  Direction& out = out_[static_cast<size_t>(nic)];
  const double begin_s = std::max(now_s, out.free_s);
  out.free_s = begin_s + bytes / bytes_per_s_;
  out.bytes += bytes;
  return begin_s + latency_s_;
}

double Links::Receive(int nic, double bytes, double now_s) {
  Direction& in = in_[static_cast<size_t>(nic)];
  in.free_s = std::max(now_s, in.free_s) + bytes / bytes_per_s_;
  in.bytes += bytes;
  return in.free_s;
}

double Links::bytes_max() const {
  double most = 0;
  for (const Direction& d : out_) most = std::max(most, d.bytes);
  for (const Direction& d : in_) most = std::max(most, d.bytes);
  return most;
}

}  // namespace longshelf::simulation
