#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace longshelf::engine {

// Where the bytes of a tensor lie in its file.
struct TensorBytes {
  std::streamoff begin = 0;
  std::streamoff end = 0;
};

// By name, of a well-formed safetensors file.
inline std::map<std::string, TensorBytes> ReadTensorBytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t n_header = 0;
  file.read(reinterpret_cast<char*>(&n_header), sizeof(n_header));
  std::string header(n_header, '\0');
  file.read(header.data(), static_cast<std::streamsize>(n_header));
  const auto first = static_cast<std::streamoff>(sizeof(n_header) + n_header);
  const nlohmann::json json = nlohmann::json::parse(header);
  std::map<std::string, TensorBytes> tensors;
  for (const auto& [name, tensor] : json.items()) {
    if (!tensor.contains("data_offsets")) continue;  // the file's metadata
    const auto& offsets = tensor["data_offsets"];
    tensors[name] = {first + offsets[0].get<std::streamoff>(), first + offsets[1].get<std::streamoff>()};
  }
  return tensors;
}

}  // namespace longshelf::engine
