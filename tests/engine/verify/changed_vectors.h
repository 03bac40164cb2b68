#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"

namespace longshelf::engine {

// A vectors or checkpoint file to be written again with something in it changed.
class ChangedVectors {
 public:
  explicit ChangedVectors(const std::filesystem::path& from);

  // Values of a tensor as they are stored: uint16_t for BF16, float for F32, int32_t for I32, uint8_t for codes.
  template <typename Stored>
  ChangedVectors& Change(const std::string& tensor, const std::function<void(std::span<Stored>)>& change) {
    std::vector<uint8_t>& bytes = tensors_.at(tensor).bytes;
    std::vector<Stored> values(bytes.size() / sizeof(Stored));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    change(values);
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return *this;
  }
  ChangedVectors& Add(const std::string& tensor, int64_t n_floats);
  // Empty: removes the key.
  ChangedVectors& SetMetadata(const std::string& key, const std::string& value);
  std::vector<int64_t> ShapeOf(const std::string& tensor) const { return tensors_.at(tensor).shape; }

  // Into a fresh directory, under the name it had.
  std::filesystem::path Write() const;

 private:
  struct Tensor {
    Dtype dtype;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
  };
  std::string name_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace longshelf::engine
