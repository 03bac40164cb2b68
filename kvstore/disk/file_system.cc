#include "file_system.h"

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace longshelf::kvstore::disk {

absl::Status File::ReadFully(uint64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    ASSIGN_OR_RETURN(const size_t n, ReadSome(offset, out));
    if (n == 0) return absl::OutOfRangeError(absl::StrCat("the file ends at ", offset));
    offset += n;
    out = out.subspan(n);
  }
  return absl::OkStatus();
}

absl::Status File::WriteFully(uint64_t offset, std::vector<std::span<const std::byte>> pieces) {
  std::span<std::span<const std::byte>> left(pieces);
  while (!left.empty()) {
    ASSIGN_OR_RETURN(size_t n, WriteSome(offset, left));
    if (n == 0) return absl::DataLossError(absl::StrCat("nothing was written at ", offset));
    offset += n;
    while (!left.empty() && n >= left.front().size()) {
      n -= left.front().size();
      left = left.subspan(1);
    }
    if (n > 0) left.front() = left.front().subspan(n);
  }
  return absl::OkStatus();
}

}  // namespace longshelf::kvstore::disk
