#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::engine {

enum class Dtype : uint8_t {
  kF32,
  kBf16,
  kF16,
  kF8E4M3,
  kF8E8M0,
  kI8,
  kU8,
  kI32,
  kI64,
  kF64,
  kBool,
  kU16,
  kI16,
  kU32,
  kU64,
  kF8E5M2,
};

std::string_view DtypeName(Dtype dtype);  // safetensors spelling, "F8_E4M3"
int64_t DtypeBytes(Dtype dtype);

// A tensor inside a mapped safetensors file. Valid as long as its SafetensorsFile.
struct TensorView {
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;
};

// One mapped safetensors file. Refuses, by tensor name and reason, every malformed file (SEC-50, SEC-51): header over
// 100 MB or over the file, non-UTF-8, duplicate names, overlap, hole, begin > end, shape overflow, unknown dtype,
// trailing bytes, __metadata__ that is not string to string, deep JSON. Nothing is allocated from a size in the file
// before it was compared with the file's length. Header size and tensor count are bounded.
class SafetensorsFile {
 public:
  // A file that becomes shorter after it was mapped raises SIGBUS when read, as with every mapping.
  static absl::StatusOr<std::unique_ptr<const SafetensorsFile>> Open(const std::filesystem::path& path);
  // For names out of a checkpoint's index: the file must lie below `dir` (SEC-53).
  static absl::StatusOr<std::unique_ptr<const SafetensorsFile>> OpenBeneath(const std::filesystem::path& dir,
                                                                            std::string_view name);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }
  // Null when absent.
  const TensorView* Find(std::string_view name) const;
  // Tells the kernel how the mapping will be read; a hint only.
  void AdviseSequential() const;
  void AdviseNormal() const;

  bool Holds(std::span<const uint8_t> bytes) const;
  // Copies bytes of this file from storage, not through the mapping. INTERNAL: not readable, or the file became
  // shorter.
  absl::Status Read(std::span<const uint8_t> bytes, uint8_t* out) const;
  // Hints for reading all of a file once, a stretch at a time, with no more of it in the page cache than that: nothing
  // is read ahead but what is expected, and what is forgotten need not stay. Readahead would also make large pages,
  // which stay as long as any byte of them is not forgotten.
  void AdviseStretches() const;
  void Expect(std::span<const uint8_t> bytes) const;
  void Forget(std::span<const uint8_t> bytes) const;
  void ForgetAll() const;

 private:
  SafetensorsFile(int fd, uint64_t size, std::string path) : fd_(fd), size_(size), path_(std::move(path)) {}
  static absl::StatusOr<std::unique_ptr<const SafetensorsFile>> Map(int fd, uint64_t size, const std::string& path);
  absl::Status ParseHeader();
  off_t OffsetOf(std::span<const uint8_t> bytes) const;

  const int fd_;
  const uint64_t size_;  // when it was opened
  const std::string path_;
  const uint8_t* data_ = nullptr;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

// What WriteSafetensors takes: name, dtype, shape, bytes.
struct TensorToWrite {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;
};
// Writes the published layout: 8-byte header length, JSON header padded with spaces to 8 bytes, then the tensors
// without holes, widest dtype first, so that each is aligned. Replaces `path` only when all of it was written.
// INVALID_ARGUMENT: a name twice, or bytes that do not fit the shape.
absl::Status WriteSafetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace longshelf::engine
