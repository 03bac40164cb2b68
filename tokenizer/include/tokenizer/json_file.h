#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace longshelf::tokenizer {

// The text of a JSON file of a checkpoint, without the byte-order mark that some editors put before it. NOT_FOUND: it
// cannot be read. INVALID_ARGUMENT: longer than bytes_max, or what Git LFS leaves in the place of a file that was not
// fetched. Messages do not name the path.
absl::StatusOr<std::string> ReadJsonFile(const std::filesystem::path& path, uint64_t bytes_max);

}  // namespace longshelf::tokenizer
