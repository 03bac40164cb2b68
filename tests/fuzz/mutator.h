#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

#include "fuzz_target.h"

namespace longshelf::fuzz {

// Makes inputs out of well-formed ones: bits flipped, bytes put in and taken out, ends cut off, inputs spliced,
// integers at their limits, words of the format.
class Mutator {
 public:
  static constexpr size_t kInputBytesMax = 64 << 10;

  // `seeds` must outlive this and hold an input.
  explicit Mutator(const Seeds& seeds) : seeds_(seeds) {}

  // The same for the same numbers, on every machine.
  std::string Make(uint64_t seed, uint64_t round) const;

 private:
  using Random = std::mt19937_64;
  void Mutate(Random& random, std::string& input) const;
  void ChangeBytes(Random& random, std::string& input) const;
  void ChangeLength(Random& random, std::string& input) const;
  void PutNumber(Random& random, std::string& input) const;
  void PutWord(Random& random, std::string& input) const;
  void Splice(Random& random, std::string& input) const;

  const Seeds& seeds_;
};

}  // namespace longshelf::fuzz
