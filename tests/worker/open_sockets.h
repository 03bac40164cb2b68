#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace longshelf::testing {

// Addresses at the other end of the open IPv4 connections to a port of this process's network.
std::set<std::string> PeersOf(uint16_t port);

}  // namespace longshelf::testing
