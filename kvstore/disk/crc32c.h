#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace longshelf::kvstore::disk {

// CRC-32C (Castagnoli) of the bytes, as iSCSI and ext4 compute it.
uint32_t Crc32c(std::span<const std::byte> bytes);

namespace internal {
uint32_t PortableCrc32c(std::span<const std::byte> bytes);
}  // namespace internal

}  // namespace longshelf::kvstore::disk
