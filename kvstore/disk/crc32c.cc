#include "crc32c.h"

#include <array>
#include <cstring>

#include "common/check.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kTable = MakeTable();

#if defined(__x86_64__)
constexpr size_t kWord = sizeof(uint64_t);

__attribute__((target("sse4.2"))) inline void AddWord(uint64_t& crc, const std::byte* at) {
  uint64_t word = 0;
  std::memcpy(&word, at, sizeof word);
  crc = __builtin_ia32_crc32di(crc, word);
}

// Behind the last whole word.
__attribute__((target("sse4.2"))) inline uint32_t Finish(uint64_t crc, std::span<const std::byte> rest) {
  auto last = static_cast<uint32_t>(crc);
  for (const std::byte byte : rest) last = __builtin_ia32_crc32qi(last, static_cast<uint8_t>(byte));
  return ~last;
}

__attribute__((target("sse4.2"))) uint32_t HardwareCrc32c(std::span<const std::byte> bytes) {
  uint64_t crc = 0xffffffffu;
  size_t at = 0;
  for (; at + kWord <= bytes.size(); at += kWord) AddWord(crc, bytes.data() + at);
  return Finish(crc, bytes.subspan(at));
}

using Runs = std::array<std::span<const std::byte>, kCrcsAtOnce>;
__attribute__((target("sse4.2"))) std::array<uint32_t, kCrcsAtOnce> HardwareCrc32cs(const Runs& runs) {
  uint64_t a = 0xffffffffu;
  uint64_t b = a;
  uint64_t c = a;
  uint64_t d = a;
  size_t at = 0;
  for (; at + kWord <= runs[0].size(); at += kWord) {
    AddWord(a, runs[0].data() + at);
    AddWord(b, runs[1].data() + at);
    AddWord(c, runs[2].data() + at);
    AddWord(d, runs[3].data() + at);
  }
  return {Finish(a, runs[0].subspan(at)), Finish(b, runs[1].subspan(at)), Finish(c, runs[2].subspan(at)),
          Finish(d, runs[3].subspan(at))};
}
#endif

}  // namespace

uint32_t internal::PortableCrc32c(std::span<const std::byte> bytes) {
  uint32_t crc = 0xffffffffu;
  for (const std::byte byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint32_t>(byte)) & 0xff];
  return ~crc;
}

uint32_t Crc32c(std::span<const std::byte> bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return HardwareCrc32c(bytes);
#endif
  return internal::PortableCrc32c(bytes);
}

std::array<uint32_t, kCrcsAtOnce> Crc32cs(const std::array<std::span<const std::byte>, kCrcsAtOnce>& runs) {
  for (const auto& run : runs) LONGSHELF_CHECK(run.size() == runs[0].size());
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return HardwareCrc32cs(runs);
#endif
  std::array<uint32_t, kCrcsAtOnce> crcs{};
  for (size_t run = 0; run < kCrcsAtOnce; ++run) crcs[run] = internal::PortableCrc32c(runs[run]);
  return crcs;
}

}  // namespace longshelf::kvstore::disk
