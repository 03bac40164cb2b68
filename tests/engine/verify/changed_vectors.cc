#include "changed_vectors.h"

#include <gtest/gtest.h>

#include "testing/fixtures.h"

namespace longshelf::engine {

ChangedVectors::ChangedVectors(const std::filesystem::path& from) : name_(from.filename()) {
  const auto file = SafetensorsFile::Open(from);
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return;
  for (const auto& [name, view] : (*file)->tensors()) {
    tensors_[name] = {view.dtype, view.shape, {view.bytes.begin(), view.bytes.end()}};
  }
  metadata_.insert((*file)->metadata().begin(), (*file)->metadata().end());
}

ChangedVectors& ChangedVectors::Add(const std::string& tensor, int64_t n_floats) {
  tensors_[tensor] = {Dtype::kF32, {n_floats}, std::vector<uint8_t>(static_cast<size_t>(n_floats) * sizeof(float))};
  return *this;
}

ChangedVectors& ChangedVectors::SetMetadata(const std::string& key, const std::string& value) {
  metadata_.erase(key);
  if (!value.empty()) metadata_[key] = value;
  return *this;
}

std::filesystem::path ChangedVectors::Write() const {
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : tensors_) tensors.push_back({name, tensor.dtype, tensor.shape, tensor.bytes});
  const std::filesystem::path to = testing::MakeTempDir("verify") / name_;
  const absl::Status written = WriteSafetensors(to, tensors, metadata_);
  EXPECT_TRUE(written.ok()) << written;
  return to;
}

}  // namespace longshelf::engine
