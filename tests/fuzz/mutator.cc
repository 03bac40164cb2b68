#include "mutator.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace longshelf::fuzz {
namespace {

constexpr uint64_t kMutationsMax = 6;

uint64_t Below(std::mt19937_64& random, uint64_t n) { return random() % n; }

// A place in `input`, its end included. Structure is often at the beginning.
size_t Position(std::mt19937_64& random, const std::string& input) {
  constexpr size_t kBeginning = 64;
  const size_t n = Below(random, 3) == 0 ? std::min(input.size(), kBeginning) : input.size();
  return Below(random, n + 1);
}

// A length, short ones more often.
size_t Length(std::mt19937_64& random, size_t n_max) {
  return n_max == 0 ? 0 : 1 + Below(random, 1 + Below(random, n_max));
}

uint64_t InterestingNumber(std::mt19937_64& random) {
  const uint64_t power = uint64_t{1} << Below(random, 64);
  switch (Below(random, 4)) {
    case 0:
      return power;
    case 1:
      return power - 1;
    case 2:
      return ~power + 1;
    default:
      return Below(random, 300);
  }
}

std::string LittleEndian(uint64_t value, size_t n_bytes) {
  std::string out;
  for (size_t i = 0; i < n_bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}

std::string Number(std::mt19937_64& random) {
  const uint64_t value = InterestingNumber(random);
  switch (Below(random, 4)) {
    case 0:
      return Varint(value);
    case 1:
      return std::to_string(static_cast<int64_t>(value));
    default: {
      std::string bytes = LittleEndian(value, size_t{1} << Below(random, 4));
      if (Below(random, 4) == 0) std::reverse(bytes.begin(), bytes.end());
      return bytes;
    }
  }
}

// In place of as many bytes as it has, or between two of them.
void Put(std::mt19937_64& random, std::string_view bytes, std::string& input) {
  const size_t at = Position(random, input);
  if (Below(random, 2) == 0) {
    input.replace(at, std::min(bytes.size(), input.size() - at), bytes);
  } else {
    input.insert(at, bytes);
  }
}

}  // namespace

std::string Mutator::Make(uint64_t seed, uint64_t round) const {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;
  Random random(seed * kGolden + round);
  std::string input = seeds_.inputs[Below(random, seeds_.inputs.size())];
  for (uint64_t n = 1 + Below(random, kMutationsMax); n > 0; --n) Mutate(random, input);
  if (input.size() > kInputBytesMax) input.resize(kInputBytesMax);
  return input;
}

void Mutator::Mutate(Random& random, std::string& input) const {
  switch (Below(random, 8)) {
    case 0:
    case 1:
      return ChangeBytes(random, input);
    case 2:
    case 3:
      return ChangeLength(random, input);
    case 4:
      return PutNumber(random, input);
    case 5:
      return Splice(random, input);
    default:
      return PutWord(random, input);
  }
}

void Mutator::ChangeBytes(Random& random, std::string& input) const {
  if (input.empty()) return;
  const size_t at = std::min(Position(random, input), input.size() - 1);
  if (Below(random, 2) == 0) {
    input[at] = static_cast<char>(input[at] ^ (1 << Below(random, 8)));
  } else {
    input[at] = static_cast<char>(random());
  }
}

void Mutator::ChangeLength(Random& random, std::string& input) const {
  const size_t at = Position(random, input);
  switch (Below(random, 4)) {
    case 0:
      input.resize(at);
      break;
    case 1:
      input.erase(at, Length(random, 64));
      break;
    case 2:
      input.insert(at, input.substr(at, Length(random, 64)));
      break;
    default:
      input.insert(at, LittleEndian(random(), Length(random, 8)));
  }
}

void Mutator::PutNumber(Random& random, std::string& input) const { Put(random, Number(random), input); }

void Mutator::PutWord(Random& random, std::string& input) const {
  if (seeds_.words.empty()) return ChangeBytes(random, input);
  Put(random, seeds_.words[Below(random, seeds_.words.size())], input);
}

// The beginning of one and the end of another, or a piece of another inside one.
void Mutator::Splice(Random& random, std::string& input) const {
  const std::string& other = seeds_.inputs[Below(random, seeds_.inputs.size())];
  const size_t from = Position(random, other);
  if (Below(random, 2) == 0) {
    input.resize(Position(random, input));
    input.append(other, from);
  } else {
    Put(random, std::string_view(other).substr(from, Length(random, 128)), input);
  }
}

}  // namespace longshelf::fuzz
