#include "tokenizer/json_file.h"

#include <fstream>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace longshelf::tokenizer {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kLfsPointer = "version https://git-lfs.github.com/spec/";

}  // namespace

absl::StatusOr<std::string> ReadJsonFile(const std::filesystem::path& path, uint64_t bytes_max) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(error.message());
  if (bytes > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat("has ", bytes, " bytes, the limit is ", bytes_max));
  }
  std::string text(bytes, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(bytes))) return absl::NotFoundError("cannot be read");
  if (text.starts_with(kLfsPointer)) {
    return absl::InvalidArgumentError("is a Git LFS pointer, not the file itself; run git lfs pull");
  }
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  return text;
}

}  // namespace longshelf::tokenizer
