// One safetensors file. In a file that is accepted every byte behind the header belongs to exactly one tensor, each as
// long as its shape and dtype say, and names and metadata are what another JSON parser reads.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "engine/model/checkpoint.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "memory_file.h"

namespace longshelf::engine {
namespace {

constexpr size_t kLengthBytes = 8;

void CheckTensors(const SafetensorsFile& file, size_t n_tensor_bytes) {
  std::vector<std::pair<const uint8_t*, const uint8_t*>> ranges;
  size_t n_covered = 0;
  for (const auto& [name, view] : file.tensors()) {
    size_t n_bytes = static_cast<size_t>(DtypeBytes(view.dtype));
    for (const int64_t dim : view.shape) n_bytes *= static_cast<size_t>(dim);
    LONGSHELF_CHECK(view.bytes.size() == n_bytes && file.Holds(view.bytes));
    n_covered += n_bytes;
    if (n_bytes > 0) ranges.emplace_back(view.bytes.data(), view.bytes.data() + n_bytes);
    std::vector<uint8_t> read(n_bytes);
    LONGSHELF_CHECK(file.Read(view.bytes, read.data()).ok() && std::ranges::equal(read, view.bytes));
  }
  LONGSHELF_CHECK(n_covered == n_tensor_bytes);
  std::ranges::sort(ranges);
  for (size_t i = 1; i < ranges.size(); ++i) LONGSHELF_CHECK(ranges[i].first == ranges[i - 1].second);
}

void CheckHeader(const SafetensorsFile& file, std::string_view header) {
  const nlohmann::json json = nlohmann::json::parse(header, nullptr, /*allow_exceptions=*/false);
  LONGSHELF_CHECK(json.is_object());
  const bool has_metadata = json.contains("__metadata__");
  LONGSHELF_CHECK(json.size() == file.tensors().size() + (has_metadata ? 1 : 0));
  for (const auto& [name, view] : file.tensors()) {
    LONGSHELF_CHECK(json.at(name).at("dtype") == DtypeName(view.dtype) && json.at(name).at("shape") == view.shape);
  }
  for (const auto& [key, value] : file.metadata()) LONGSHELF_CHECK(json.at("__metadata__").at(key) == value);
}

void Open(std::string_view bytes) {
  const fuzz::MemoryFile content(bytes);
  const auto file = SafetensorsFile::Open(content.path());
  if (!file.ok()) {
    LONGSHELF_CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  uint64_t n_header = 0;
  LONGSHELF_CHECK(bytes.size() >= kLengthBytes);
  std::memcpy(&n_header, bytes.data(), kLengthBytes);
  LONGSHELF_CHECK(n_header <= bytes.size() - kLengthBytes);
  CheckTensors(**file, bytes.size() - kLengthBytes - n_header);
  CheckHeader(**file, bytes.substr(kLengthBytes, n_header));
}

std::string File(std::string_view header, size_t n_tensor_bytes) {
  const uint64_t n_header = header.size();
  std::string file(reinterpret_cast<const char*>(&n_header), sizeof n_header);
  return file.append(header).append(n_tensor_bytes, '\1');
}

constexpr std::string_view kHeader =
    R"({"__metadata__":{"format":"pt","k":"\u00e9"},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
    R"("b.c":{"dtype":"BF16","shape":[2,3,1],"data_offsets":[16,28]},"e":{"dtype":"U8","shape":[0],)"
    R"("data_offsets":[28,28]},"s":{"dtype":"F8_E4M3","shape":[],"data_offsets":[28,29]}})";

// With the length of the header made right: the end of the JSON is where the input says, not a chance.
std::string WithLength(fuzz::FuzzInput input) {
  const std::string_view header = input.Part();
  return File(header, 0).append(input.Rest());
}

}  // namespace
}  // namespace longshelf::engine

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using engine::File;
  using engine::kHeader;
  std::string split(1, '\1');
  AppendPart(kHeader, split);
  return {.inputs = {'\0' + File(kHeader, 29), '\0' + File("{}", 0), split + std::string(29, '\1')},
          .words = {"\"a\":", "\"dtype\":\"I64\"", "\"F8_E8M0\"", "[0,16]", "[16,28]", "[28,29]", "[1,1,1,1,1,1,1,1,1]",
                    "4294967296", "9223372036854775807", "18446744073709551615", "{}", "[]", "null", "\\u0000", "  ",
                    "__metadata__", "-0", "1e0", "0"}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  const bool has_parts = input.Byte() % 2 == 1;
  engine::Open(has_parts ? engine::WithLength(input) : std::string(input.Rest()));
  return 0;
}
