#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace longshelf::fuzz {

// Takes an input apart from the front. What is not there is zero or empty.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size)
      : bytes_(size == 0 ? std::string_view() : std::string_view(reinterpret_cast<const char*>(data), size)) {}

  bool empty() const { return bytes_.empty(); }
  uint8_t Byte() {
    const std::string_view one = Take(1);
    return one.empty() ? uint8_t{0} : static_cast<uint8_t>(one[0]);
  }
  // Little-endian.
  uint16_t Short() {
    const uint8_t low = Byte();
    return static_cast<uint16_t>(low | Byte() << 8);
  }
  std::string_view Take(size_t n) {
    const std::string_view taken = bytes_.substr(0, n);
    bytes_.remove_prefix(taken.size());
    return taken;
  }
  // Bytes behind their length, which AppendPart() writes.
  std::string_view Part() { return Take(Short()); }
  std::string_view Rest() { return Take(bytes_.size()); }

 private:
  std::string_view bytes_;
};

// REQUIRES: at most 65535 bytes.
inline void AppendPart(std::string_view bytes, std::string& input) {
  input.push_back(static_cast<char>(bytes.size() & 0xff));
  input.push_back(static_cast<char>(bytes.size() >> 8));
  input.append(bytes);
}

}  // namespace longshelf::fuzz
