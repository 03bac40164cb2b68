#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Feeds bytes to every parser of a segment file. The first byte chooses, the rest is the input; structure behind a
// checksum is reached by inputs whose checksums are made right first (second byte odd). Aborts when a parser returns
// something outside its contract.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace longshelf::kvstore::disk {

// Well-formed inputs to start from.
std::vector<std::string> FuzzCorpus();

}  // namespace longshelf::kvstore::disk
