#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"

namespace longshelf::engine {

// A vectors file with checked access: tensors of the wrong dtype or shape are refused by name.
class Vectors {
 public:
  static absl::StatusOr<Vectors> Open(const std::filesystem::path& path);

  enum class Kind : uint8_t { kLogits, kTaps, kKernels };
  // INVALID_ARGUMENT: none of the three.
  absl::StatusOr<Kind> DetectKind() const;

  bool Has(std::string_view name) const { return file_->Find(name) != nullptr; }
  // -1 in `shape` matches any extent.
  absl::StatusOr<std::vector<int64_t>> Integers(std::string_view name, std::vector<int64_t> shape) const;  // I64, I32
  absl::StatusOr<std::vector<float>> Floats(std::string_view name, std::vector<int64_t> shape) const;      // F32, BF16
  absl::StatusOr<std::vector<uint8_t>> Bytes(std::string_view name, std::vector<int64_t> shape) const;     // U8
  absl::StatusOr<std::vector<int64_t>> Shape(std::string_view name) const;

  // From metadata: m0 -> fp32, m1 -> native.
  std::optional<Numerics> numerics() const;
  // `count` numbers apart by spaces. INVALID_ARGUMENT: missing, another count, or one that is negative or not finite.
  absl::StatusOr<std::vector<double>> MetadataNumbers(std::string_view key, int64_t count) const;
  std::string Metadata(std::string_view key) const;
  const SafetensorsFile& file() const { return *file_; }
  // Tensors that nobody has read so far, so that nothing in a file passes without having been judged.
  std::vector<std::string> Unread() const;

 private:
  absl::StatusOr<const TensorView*> Get(std::string_view name, const std::vector<int64_t>& shape) const;
  std::shared_ptr<const SafetensorsFile> file_;
  mutable std::set<std::string, std::less<>> read_;  // by the one thread that verifies
};

// Whether a tensor belongs to a draft module (of a DSpark checkpoint), by its name.
bool IsOfDraftModule(std::string_view tensor);

// Tokens checked against the vocabulary and the model's longest position.
absl::StatusOr<std::vector<uint32_t>> ReadTokens(const Vectors& vectors, const ModelConfig& config);

// Collects tensors for --dump and writes them with the vectors file's metadata.
class Dump {
 public:
  void AddFloats(std::string name, const std::vector<float>& values, std::vector<int64_t> shape);  // F32
  void AddBf16(std::string name, const std::vector<float>& values, std::vector<int64_t> shape);    // rounded to BF16
  void AddIntegers(std::string name, const std::vector<int64_t>& values, std::vector<int64_t> shape);
  void AddBytes(std::string name, const std::vector<uint8_t>& values, std::vector<int64_t> shape);
  absl::Status Write(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) const;

 private:
  struct Item {
    std::string name;
    Dtype dtype;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
  };
  void Add(std::string name, Dtype dtype, std::vector<int64_t> shape, const void* data, size_t n_bytes);
  std::vector<Item> items_;
};

}  // namespace longshelf::engine
