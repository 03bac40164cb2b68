#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace longshelf::kvstore::disk {

// CRC-32C (Castagnoli) of the bytes, as iSCSI and ext4 compute it.
uint32_t Crc32c(std::span<const std::byte> bytes);

// Of as many runs of bytes, all of one size, side by side: one step waits for the one before, so a processor with the
// instruction computes all of them in the time of one.
inline constexpr size_t kCrcsAtOnce = 4;
std::array<uint32_t, kCrcsAtOnce> Crc32cs(const std::array<std::span<const std::byte>, kCrcsAtOnce>& runs);

namespace internal {
uint32_t PortableCrc32c(std::span<const std::byte> bytes);
}  // namespace internal

}  // namespace longshelf::kvstore::disk
