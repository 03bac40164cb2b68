#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::tokenizer::internal {

// The parts of tokenizer.json that we use, checked: every id below `TokenizerLimits::ids_max`, no id and no content
// twice, every merge made of known pieces.
struct TokenizerFile {
  struct Token {
    uint32_t id;
    std::string bytes;  // raw, out of the GPT-2 alphabet; pieces with other characters keep their UTF-8 text
    bool byte_level;    // `bytes` came out of the alphabet
  };
  struct AddedToken {
    uint32_t id;
    std::string content;
    bool special;
    bool normalized;  // matched after, not before, the others
  };
  struct Merge {
    uint32_t left;
    uint32_t right;
    uint32_t merged;
  };
  std::vector<Token> tokens;
  std::vector<AddedToken> added_tokens;
  std::vector<Merge> merges;  // best first
  uint32_t byte_tokens[256];
  uint32_t vocab_size;  // highest id + 1
};

// DeepSeek-V4 has 129280 ids, 127741 merges and a file of 4 to 8 MB.
struct TokenizerLimits {
  uint64_t file_bytes_max = 64u << 20;
  uint32_t ids_max = 1u << 20;
  uint32_t merges_max = 1u << 20;
  uint32_t added_tokens_max = 1u << 16;
  uint32_t piece_bytes_max = 2048;
  uint32_t added_content_bytes_max = 256;
};

// INVALID_ARGUMENT naming file, key and reason; NOT_FOUND.
absl::StatusOr<TokenizerFile> ReadTokenizerFile(const std::filesystem::path& path, const TokenizerLimits& limits = {});

// The GPT-2 alphabet: every byte as one printable character.
uint32_t ByteToAlphabet(uint8_t byte);

}  // namespace longshelf::tokenizer::internal
