#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace longshelf::bench {

// One thing that a core can do at most so often a second. The kernels hold everything but `data` in registers.
struct CeilingKernel {
  std::string quantity;  // "read", "fp32 fma", "bf16 dot", "int8 dot"
  std::string name;      // the instructions it is made of
  std::string unit;      // of `work` a second, divided by 1e9
  // Does a slice of work, some tens of microseconds for arithmetic and one pass over `data` for reading; returns how
  // much: bytes, or operations (a multiplication and an addition are two).
  double (*work)(std::span<const unsigned char> data);
};

// Those this machine can run, chosen at run time; the widest of each quantity. Empty without AVX2 and FMA.
std::vector<CeilingKernel> AvailableCeilings();

}  // namespace longshelf::bench
