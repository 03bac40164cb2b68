#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "dtype.h"
#include "engine/model/checkpoint.h"
#include "json_fields.h"
#include "model_files.h"
#include "text.h"

namespace longshelf::engine {
namespace {

// A JSON string of UTF-8 text.
std::string JsonString(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (byte < 0x20) {
      constexpr std::string_view kHex = "0123456789abcdef";
      out += Cat("\\u00", kHex.substr(byte >> 4, 1), kHex.substr(byte & 15, 1));
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
  return out;
}

absl::Status CheckTensors(std::span<const TensorToWrite> tensors) {
  std::set<std::string_view> names;
  for (const TensorToWrite& tensor : tensors) {
    if (tensor.name.empty() || tensor.name == "__metadata__" || !names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(Cat("tensor ", QuotedName(tensor.name), ": not a name, or given twice"));
    }
    const std::optional<uint64_t> n_bytes = TensorBytes(tensor.dtype, tensor.shape);
    if (!n_bytes.has_value() || *n_bytes != tensor.bytes.size()) {
      return absl::InvalidArgumentError(Cat("tensor ", QuotedName(tensor.name), ": ", tensor.bytes.size(),
                                            " bytes do not fit ", DescribeTensor(tensor.dtype, tensor.shape)));
    }
  }
  return absl::OkStatus();
}

std::string MakeHeader(std::span<const TensorToWrite* const> order,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> members;
  if (!metadata.empty()) {
    std::vector<std::string> pairs;
    pairs.reserve(metadata.size());
    for (const auto& [key, value] : metadata) {
      pairs.push_back(Cat(JsonString(key), ":", JsonString(value)));
    }
    members.push_back(Cat("\"__metadata__\":{", absl::StrJoin(pairs, ","), "}"));
  }
  uint64_t offset = 0;
  for (const TensorToWrite* tensor : order) {
    const uint64_t end = offset + tensor->bytes.size();
    members.push_back(Cat(JsonString(tensor->name), ":{\"dtype\":\"", DtypeName(tensor->dtype), "\",\"shape\":[",
                          absl::StrJoin(tensor->shape, ","), "],\"data_offsets\":[", offset, ",", end, "]}"));
    offset = end;
  }
  std::string header = Cat("{", absl::StrJoin(members, ","), "}");
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

absl::Status WriteAll(int fd, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return absl::InternalError(std::strerror(errno));
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status WriteFile(int fd, const std::string& header, std::span<const TensorToWrite* const> order) {
  const uint64_t header_bytes = header.size();
  RETURN_IF_ERROR(WriteAll(fd, {reinterpret_cast<const uint8_t*>(&header_bytes), sizeof(header_bytes)}));
  RETURN_IF_ERROR(WriteAll(fd, {reinterpret_cast<const uint8_t*>(header.data()), header.size()}));
  for (const TensorToWrite* tensor : order) {
    RETURN_IF_ERROR(WriteAll(fd, tensor->bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteSafetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata) {
  RETURN_IF_ERROR(CheckTensors(tensors));
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) {
    order.push_back(&tensor);
  }
  std::stable_sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    const int64_t a_bytes = DtypeBytes(a->dtype);
    const int64_t b_bytes = DtypeBytes(b->dtype);
    return a_bytes != b_bytes ? a_bytes > b_bytes : a->name < b->name;
  });
  const std::string header = MakeHeader(order, metadata);
  const std::string temporary = Cat(path.string(), ".", getpid(), ".tmp");
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::InternalError(Cat(temporary, ": ", std::strerror(errno)));
  }
  absl::Status status = WriteFile(fd, header, order);
  if (close(fd) != 0 && status.ok()) {
    status = absl::InternalError(std::strerror(errno));
  }
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = absl::InternalError(std::strerror(errno));
  }
  if (!status.ok()) {
    unlink(temporary.c_str());
    return Annotate(status, path.string());
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
