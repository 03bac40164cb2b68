#include "vectors.h"

#include <cmath>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "engine/model/primitives.h"

namespace longshelf::engine {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::Status WrongDtype(std::string_view name, const TensorView& tensor, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat("tensor \"", std::string(name), "\" is ",
                                                 std::string(DtypeName(tensor.dtype)), "; expected ", wanted));
}

template <typename Stored, typename Out>
std::vector<Out> Copy(const TensorView& tensor) {
  std::vector<Out> out(tensor.bytes.size() / sizeof(Stored));
  for (size_t i = 0; i < out.size(); ++i) {
    Stored value;
    std::memcpy(&value, tensor.bytes.data() + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<Out>(value);
  }
  return out;
}

}  // namespace

absl::StatusOr<Vectors> Vectors::Open(const std::filesystem::path& path) {
  Vectors vectors;
  ASSIGN_OR_RETURN(vectors.file_, SafetensorsFile::Open(path));
  return vectors;
}

absl::StatusOr<Vectors::Kind> Vectors::DetectKind() const {
  if (Has("e4m3.in")) return Kind::kKernels;
  if (Has("x.0") && Has("tokens")) return Kind::kTaps;
  if (Has("logits") && Has("tokens") && Has("positions")) return Kind::kLogits;
  return absl::InvalidArgumentError(
      "not a vectors file: it has neither e4m3.in (kernels), nor x.0 (taps), nor tokens, positions and logits");
}

absl::StatusOr<const TensorView*> Vectors::Get(std::string_view name, const std::vector<int64_t>& shape) const {
  const TensorView* tensor = file_->Find(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", std::string(name), "\" is missing"));
  }
  bool fits = tensor->shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == tensor->shape[i];
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", std::string(name), "\" has shape ",
                                                   ShapeText(tensor->shape), "; this model needs ", ShapeText(shape),
                                                   " (-1 = any)"));
  }
  read_.emplace(name);
  return tensor;
}

absl::StatusOr<std::vector<int64_t>> Vectors::Shape(std::string_view name) const {
  const TensorView* tensor = file_->Find(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", std::string(name), "\" is missing"));
  }
  return tensor->shape;
}

absl::StatusOr<std::vector<int64_t>> Vectors::Integers(std::string_view name, std::vector<int64_t> shape) const {
  ASSIGN_OR_RETURN(const TensorView* tensor, Get(name, shape));
  if (tensor->dtype == Dtype::kI64) return Copy<int64_t, int64_t>(*tensor);
  if (tensor->dtype == Dtype::kI32) return Copy<int32_t, int64_t>(*tensor);
  return WrongDtype(name, *tensor, "I64 or I32");
}

absl::StatusOr<std::vector<float>> Vectors::Floats(std::string_view name, std::vector<int64_t> shape) const {
  ASSIGN_OR_RETURN(const TensorView* tensor, Get(name, shape));
  if (tensor->dtype == Dtype::kF32) return Copy<float, float>(*tensor);
  if (tensor->dtype != Dtype::kBf16) return WrongDtype(name, *tensor, "F32 or BF16");
  std::vector<float> out;
  out.reserve(tensor->bytes.size() / 2);
  for (const uint16_t bits : Copy<uint16_t, uint16_t>(*tensor)) out.push_back(primitives::DecodeBf16(bits));
  return out;
}

absl::StatusOr<std::vector<uint8_t>> Vectors::Bytes(std::string_view name, std::vector<int64_t> shape) const {
  ASSIGN_OR_RETURN(const TensorView* tensor, Get(name, shape));
  if (tensor->dtype != Dtype::kU8) return WrongDtype(name, *tensor, "U8");
  return std::vector<uint8_t>(tensor->bytes.begin(), tensor->bytes.end());
}

std::optional<Numerics> Vectors::numerics() const {
  const std::string text = Metadata("numerics");
  if (text == "m0") return Numerics::kFp32;
  if (text == "m1") return Numerics::kNative;
  return std::nullopt;
}

std::string Vectors::Metadata(std::string_view key) const {
  const auto it = file_->metadata().find(key);
  return it == file_->metadata().end() ? std::string() : it->second;
}

absl::StatusOr<std::vector<double>> Vectors::MetadataNumbers(std::string_view key, int64_t count) const {
  std::vector<double> numbers;
  const std::string text = Metadata(key);
  bool good = true;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    double value = 0.0;
    good = good && absl::SimpleAtod(word, &value) && std::isfinite(value) && value >= 0.0;
    numbers.push_back(value);
  }
  if (!good || static_cast<int64_t>(numbers.size()) != count) {
    return absl::InvalidArgumentError(absl::StrCat("metadata ", std::string(key), " must be ", count,
                                                   " numbers apart by spaces, none negative; it is \"", text, "\""));
  }
  return numbers;
}

std::vector<std::string> Vectors::Unread() const {
  std::vector<std::string> names;
  for (const auto& [name, view] : file_->tensors()) {
    if (!read_.contains(name)) names.push_back(name);
  }
  return names;
}

bool IsOfDraftModule(std::string_view tensor) {
  return tensor.starts_with("draft.") || tensor.starts_with("cache.mtp.") || tensor == "main_hidden" ||
         tensor == "main_x";
}

absl::StatusOr<std::vector<uint32_t>> ReadTokens(const Vectors& vectors, const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> ids, vectors.Integers("tokens", {-1}));
  if (ids.empty() || static_cast<int64_t>(ids.size()) > config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("the vectors file has ", ids.size(), " tokens; this model takes 1 to ", config.max_positions));
  }
  std::vector<uint32_t> tokens;
  for (const int64_t id : ids) {
    if (id < 0 || id >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("the vectors file does not fit this model: token ", id,
                                                     " is outside its vocabulary of ", config.vocab_size));
    }
    tokens.push_back(static_cast<uint32_t>(id));
  }
  return tokens;
}

void Dump::Add(std::string name, Dtype dtype, std::vector<int64_t> shape, const void* data, size_t n_bytes) {
  Item item{std::move(name), dtype, std::move(shape), std::vector<uint8_t>(n_bytes)};
  if (n_bytes > 0) std::memcpy(item.bytes.data(), data, n_bytes);
  items_.push_back(std::move(item));
}

void Dump::AddFloats(std::string name, const std::vector<float>& values, std::vector<int64_t> shape) {
  Add(std::move(name), Dtype::kF32, std::move(shape), values.data(), values.size() * sizeof(float));
}

void Dump::AddBf16(std::string name, const std::vector<float>& values, std::vector<int64_t> shape) {
  std::vector<uint16_t> bits;
  bits.reserve(values.size());
  for (const float v : values) bits.push_back(primitives::EncodeBf16(v));
  Add(std::move(name), Dtype::kBf16, std::move(shape), bits.data(), bits.size() * sizeof(uint16_t));
}

void Dump::AddIntegers(std::string name, const std::vector<int64_t>& values, std::vector<int64_t> shape) {
  Add(std::move(name), Dtype::kI64, std::move(shape), values.data(), values.size() * sizeof(int64_t));
}

void Dump::AddBytes(std::string name, const std::vector<uint8_t>& values, std::vector<int64_t> shape) {
  Add(std::move(name), Dtype::kU8, std::move(shape), values.data(), values.size());
}

absl::Status Dump::Write(const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) const {
  std::vector<TensorToWrite> tensors;
  for (const Item& item : items_) tensors.push_back({item.name, item.dtype, item.shape, item.bytes});
  return WriteSafetensors(path, tensors, metadata);
}

}  // namespace longshelf::engine
