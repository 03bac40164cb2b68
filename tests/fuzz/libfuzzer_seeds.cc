// Under libFuzzer: puts the seeds of a target into its first corpus directory.
#include <filesystem>
#include <fstream>
#include <string>

#include "fuzz_target.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    const std::filesystem::path directory = (*argv)[i];
    if (!std::filesystem::is_directory(directory)) continue;
    size_t n = 0;
    for (const std::string& input : longshelf::fuzz::MakeSeeds().inputs) {
      std::ofstream(directory / ("seed-" + std::to_string(n++)), std::ios::binary) << input;
    }
    break;
  }
  return 0;
}
