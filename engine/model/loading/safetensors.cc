#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <tuple>

#include "absl/status/status.h"
#include "common/check.h"
#include "common/status.h"
#include "dtype.h"
#include "engine/model/checkpoint.h"
#include "json_fields.h"
#include "model_files.h"
#include "text.h"

namespace longshelf::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors bytes are read in place");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxHeaderDepth = 4;  // header, tensor, list, number
constexpr size_t kMaxTensors = 1'000'000;
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxRank = 8;

struct Entry {
  TensorView view;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::Status CheckTensorName(std::string_view name) {
  if (name.empty() || name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(
        Cat("tensor name ", QuotedName(name), ": has ", name.size(), " bytes, must have 1 to ", kMaxNameBytes));
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      return absl::InvalidArgumentError(Cat("tensor name ", QuotedName(name), ": contains a control character"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> ParseShape(simdjson::dom::element element) {
  simdjson::dom::array array;
  if (element.get_array().get(array) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("shape is not a list");
  }
  std::vector<int64_t> shape;
  for (const simdjson::dom::element item : array) {
    int64_t dim = 0;
    if (shape.size() == kMaxRank) {
      return absl::InvalidArgumentError(Cat("shape has more than ", kMaxRank, " dimensions"));
    }
    if (item.get_int64().get(dim) != simdjson::SUCCESS || dim < 0) {
      return absl::InvalidArgumentError(Cat("shape[", shape.size(), "] is not an integer from 0 to 2^63 - 1"));
    }
    shape.push_back(dim);
  }
  return shape;
}

absl::Status ParseOffsets(simdjson::dom::element element, Entry& entry) {
  simdjson::dom::array array;
  if (element.get_array().get(array) != simdjson::SUCCESS || array.size() != 2 ||
      array.at(0).get_uint64().get(entry.begin) != simdjson::SUCCESS ||
      array.at(1).get_uint64().get(entry.end) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("data_offsets is not a list of two integers");
  }
  return absl::OkStatus();
}

// data_bytes: what the file has after the header.
absl::StatusOr<Entry> ParseEntry(simdjson::dom::element element, uint64_t data_bytes) {
  ASSIGN_OR_RETURN(const JsonFields fields, UniqueFields(element, "description"));
  for (const auto& [key, value] : fields) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return absl::InvalidArgumentError(Cat("unknown key ", QuotedName(key)));
    }
  }
  for (const std::string_view key : {"dtype", "shape", "data_offsets"}) {
    if (!fields.contains(key)) {
      return absl::InvalidArgumentError(Cat(key, " is missing"));
    }
  }
  Entry entry;
  std::string_view dtype_name;
  if (fields.at("dtype").get_string().get(dtype_name) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("dtype is not a string");
  }
  const std::optional<Dtype> dtype = DtypeFromName(dtype_name);
  if (!dtype.has_value()) {
    return absl::InvalidArgumentError(Cat("unknown dtype ", QuotedName(dtype_name)));
  }
  entry.view.dtype = *dtype;
  ASSIGN_OR_RETURN(entry.view.shape, ParseShape(fields.at("shape")));
  RETURN_IF_ERROR(ParseOffsets(fields.at("data_offsets"), entry));
  if (entry.begin > entry.end) {
    return absl::InvalidArgumentError(Cat("begins at ", entry.begin, ", after its end ", entry.end));
  }
  if (entry.end > data_bytes) {
    return absl::InvalidArgumentError(Cat("ends at ", entry.end, ", the file has ", data_bytes, " bytes of tensors"));
  }
  const std::optional<uint64_t> n_bytes = TensorBytes(entry.view.dtype, entry.view.shape);
  if (!n_bytes.has_value()) {
    return absl::InvalidArgumentError(
        Cat("size of ", DescribeTensor(entry.view.dtype, entry.view.shape), " overflows 64 bits"));
  }
  if (*n_bytes != entry.end - entry.begin) {
    return absl::InvalidArgumentError(Cat(DescribeTensor(entry.view.dtype, entry.view.shape), " has ", *n_bytes,
                                          " bytes, its offsets span ", entry.end - entry.begin));
  }
  return entry;
}

absl::Status ParseMetadata(simdjson::dom::element element, std::map<std::string, std::string, std::less<>>& metadata) {
  ASSIGN_OR_RETURN(const JsonFields fields, UniqueFields(element, "__metadata__"));
  for (const auto& [key, value] : fields) {
    std::string_view text;
    if (value.get_string().get(text) != simdjson::SUCCESS) {
      return absl::InvalidArgumentError(Cat("__metadata__: ", QuotedName(key), " is not a string"));
    }
    metadata.emplace(key, text);
  }
  return absl::OkStatus();
}

// Every byte after the header belongs to exactly one tensor.
absl::Status CheckCoverage(std::vector<std::pair<std::string_view, const Entry*>> entries, uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.second->begin, a.second->end) < std::tie(b.second->begin, b.second->end);
  });
  uint64_t covered = 0;
  std::string_view previous = "the header";
  for (const auto& [name, entry] : entries) {
    if (entry->begin < covered) {
      return absl::InvalidArgumentError(Cat("tensor ", QuotedName(name), ": begins at ", entry->begin, " and overlaps ",
                                            QuotedName(previous), ", which ends at ", covered));
    }
    if (entry->begin > covered) {
      return absl::InvalidArgumentError(Cat("tensor ", QuotedName(name), ": begins at ", entry->begin, ", bytes from ",
                                            covered, " belong to no tensor"));
    }
    covered = entry->end;
    previous = name;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(
        Cat("trailing bytes: tensors end at ", covered, ", the file has ", data_bytes, " bytes of tensors"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const SafetensorsFile>> SafetensorsFile::Open(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(OpenFile file, OpenRegularFile(path));
  const uint64_t size = file.size();
  return Map(file.Release(), size, path.string());
}

absl::StatusOr<std::unique_ptr<const SafetensorsFile>> SafetensorsFile::OpenBeneath(const std::filesystem::path& dir,
                                                                                    std::string_view name) {
  ASSIGN_OR_RETURN(OpenFile file, engine::OpenBeneath(dir, name));
  const uint64_t size = file.size();
  return Map(file.Release(), size, (dir / name).string());
}

absl::StatusOr<std::unique_ptr<const SafetensorsFile>> SafetensorsFile::Map(int fd, uint64_t size,
                                                                            const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(fd, size, path));
  if (size < kLengthBytes) {
    return absl::InvalidArgumentError(Cat(path, ": has ", size, " bytes, too short for a safetensors file"));
  }
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    return absl::InternalError(Cat(path, ": mmap of ", size, " bytes: ", std::strerror(errno)));
  }
  file->data_ = static_cast<const uint8_t*>(data);
  const absl::Status parsed = file->ParseHeader();
  if (!parsed.ok()) {
    return Annotate(parsed, path);
  }
  return std::unique_ptr<const SafetensorsFile>(std::move(file));
}

absl::Status SafetensorsFile::ParseHeader() {
  RETURN_IF_ERROR(RefuseLfsPointer({reinterpret_cast<const char*>(data_), size_}));
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, data_, kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        Cat("header has ", header_bytes, " bytes, at most ", kMaxHeaderBytes, " are read"));
  }
  if (header_bytes > size_ - kLengthBytes) {
    return absl::InvalidArgumentError(Cat("header has ", header_bytes, " bytes, the file ", size_, " (truncated?)"));
  }
  const std::string_view text(reinterpret_cast<const char*>(data_ + kLengthBytes), header_bytes);
  if (!text.starts_with('{')) {
    return absl::InvalidArgumentError("header does not begin with '{'");
  }
  simdjson::dom::parser parser;
  ASSIGN_OR_RETURN(const simdjson::dom::element root, ParseJson(parser, text, kMaxHeaderDepth, "header"));
  ASSIGN_OR_RETURN(const JsonFields fields, UniqueFields(root, "header"));
  if (fields.size() > kMaxTensors) {
    return absl::InvalidArgumentError(
        Cat("header names ", fields.size(), " tensors, at most ", kMaxTensors, " are read"));
  }
  const uint8_t* const tensor_bytes = data_ + kLengthBytes + header_bytes;
  const uint64_t n_tensor_bytes = size_ - kLengthBytes - header_bytes;
  std::vector<Entry> entries;
  entries.reserve(fields.size());
  std::vector<std::pair<std::string_view, const Entry*>> order;
  for (const auto& [name, element] : fields) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(ParseMetadata(element, metadata_));
      continue;
    }
    RETURN_IF_ERROR(CheckTensorName(name));
    absl::StatusOr<Entry> entry = ParseEntry(element, n_tensor_bytes);
    if (!entry.ok()) {
      return Annotate(entry.status(), Cat("tensor ", QuotedName(name)));
    }
    entries.push_back(*std::move(entry));
    order.emplace_back(name, &entries.back());
  }
  RETURN_IF_ERROR(CheckCoverage(order, n_tensor_bytes));
  for (const auto& [name, entry] : order) {
    TensorView view = entry->view;
    view.bytes = {tensor_bytes + entry->begin, entry->end - entry->begin};
    tensors_.emplace(name, std::move(view));
  }
  return absl::OkStatus();
}

SafetensorsFile::~SafetensorsFile() {
  if (data_ != nullptr) {
    munmap(const_cast<uint8_t*>(data_), size_);
  }
  close(fd_);
}

const TensorView* SafetensorsFile::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

void SafetensorsFile::AdviseSequential() const { madvise(const_cast<uint8_t*>(data_), size_, MADV_SEQUENTIAL); }

void SafetensorsFile::AdviseNormal() const { madvise(const_cast<uint8_t*>(data_), size_, MADV_NORMAL); }

bool SafetensorsFile::Holds(std::span<const uint8_t> bytes) const {
  return bytes.data() >= data_ && bytes.data() + bytes.size() <= data_ + size_;
}

off_t SafetensorsFile::OffsetOf(std::span<const uint8_t> bytes) const {
  LONGSHELF_CHECK(Holds(bytes));
  return static_cast<off_t>(bytes.data() - data_);
}

absl::Status SafetensorsFile::Read(std::span<const uint8_t> bytes, uint8_t* out) const {
  const off_t offset = OffsetOf(bytes);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = pread(fd_, out + done, bytes.size() - done, offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return absl::InternalError(Cat(path_, ": ", n < 0 ? std::strerror(errno) : "became shorter while it was read"));
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

void SafetensorsFile::AdviseStretches() const { posix_fadvise(fd_, 0, 0, POSIX_FADV_RANDOM); }

void SafetensorsFile::Expect(std::span<const uint8_t> bytes) const {
  posix_fadvise(fd_, OffsetOf(bytes), static_cast<off_t>(bytes.size()), POSIX_FADV_WILLNEED);
}

void SafetensorsFile::Forget(std::span<const uint8_t> bytes) const {
  posix_fadvise(fd_, OffsetOf(bytes), static_cast<off_t>(bytes.size()), POSIX_FADV_DONTNEED);
}

void SafetensorsFile::ForgetAll() const {
  // A page that is mapped would stay.
  madvise(const_cast<uint8_t*>(data_), size_, MADV_DONTNEED);
  posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
}

}  // namespace longshelf::engine
