#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What every file *_fuzz.cc defines. A target is one program: itself and a driver, ours or libFuzzer.

// Feeds bytes to parsers. Aborts when one of them breaks its contract; any bytes are allowed.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace longshelf::fuzz {

// Where mutation starts from.
struct Seeds {
  std::vector<std::string> inputs;      // well formed
  std::vector<std::string> words = {};  // of the format, to put in anywhere
};

Seeds MakeSeeds();

}  // namespace longshelf::fuzz
