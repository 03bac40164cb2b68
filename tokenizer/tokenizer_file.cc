#include "tokenizer_file.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <array>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "common/status.h"
#include "pretokenizer.h"
#include "tokenizer/json_file.h"
#include "utf8.h"

namespace longshelf::tokenizer::internal {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

constexpr size_t kJsonDepthMax = 32;

absl::Status Bad(std::string_view key, std::string_view reason) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", key, reason));
}

// The member `key`, or nothing if it is absent or null.
std::optional<element> Member(const object& parent, std::string_view key) {
  element value;
  if (parent[key].get(value) != simdjson::SUCCESS || value.is_null()) return std::nullopt;
  return value;
}

template <typename T>
absl::StatusOr<T> Required(const object& parent, std::string_view path, std::string_view key, std::string_view type) {
  const std::optional<element> value = Member(parent, key);
  T out;
  if (!value || value->get(out) != simdjson::SUCCESS) {
    return Bad(fmt::format("{}{}", path, key), fmt::format("must be {}", type));
  }
  return out;
}

// Absent, null and false are false.
absl::StatusOr<bool> Flag(const object& parent, std::string_view path, std::string_view key) {
  const std::optional<element> value = Member(parent, key);
  bool out = false;
  if (value && value->get(out) != simdjson::SUCCESS)
    return Bad(fmt::format("{}{}", path, key), "must be true or false");
  return out;
}

absl::Status CheckType(const object& parent, std::string_view path, std::string_view type) {
  ASSIGN_OR_RETURN(const std::string_view found, Required<std::string_view>(parent, path, "type", "a string"));
  if (found == type) return absl::OkStatus();
  return Bad(fmt::format("{}type", path), fmt::format("is \"{}\", DeepSeek-V4 has \"{}\"", found, type));
}

// Files spell newlines and quotes in character classes with or without a backslash.
std::string CanonicalPattern(std::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != '\\' || i + 1 == pattern.size()) {
      out.push_back(pattern[i]);
      continue;
    }
    switch (pattern[++i]) {
      case 'r':
        out.push_back('\r');
        break;
      case 'n':
        out.push_back('\n');
        break;
      case '"':
        out.push_back('"');
        break;
      default:
        out.append({'\\', pattern[i]});
    }
  }
  return out;
}

absl::Status CheckSplit(const object& stage, std::string_view path, std::string_view expected) {
  RETURN_IF_ERROR(CheckType(stage, path, "Split"));
  ASSIGN_OR_RETURN(const object pattern, Required<object>(stage, path, "pattern", "an object"));
  ASSIGN_OR_RETURN(const std::string_view regex,
                   Required<std::string_view>(pattern, fmt::format("{}pattern.", path), "Regex", "a string"));
  if (CanonicalPattern(regex) != CanonicalPattern(expected)) {
    return Bad(fmt::format("{}pattern.Regex", path), "is not the expression of DeepSeek-V4");
  }
  ASSIGN_OR_RETURN(const std::string_view behavior, Required<std::string_view>(stage, path, "behavior", "a string"));
  if (behavior != "Isolated") return Bad(fmt::format("{}behavior", path), "must be Isolated");
  ASSIGN_OR_RETURN(const bool invert, Flag(stage, path, "invert"));
  return invert ? Bad(fmt::format("{}invert", path), "must be false") : absl::OkStatus();
}

absl::Status CheckPreTokenizer(const object& root) {
  constexpr std::string_view kKey = "pre_tokenizer";
  ASSIGN_OR_RETURN(const object pre, Required<object>(root, "", kKey, "an object"));
  RETURN_IF_ERROR(CheckType(pre, "pre_tokenizer.", "Sequence"));
  ASSIGN_OR_RETURN(const array stages, Required<array>(pre, "pre_tokenizer.", "pretokenizers", "an array"));
  if (stages.size() != std::size(kSplitPatterns) + 1) return Bad(kKey, "must have four stages, as DeepSeek-V4");
  size_t i = 0;
  for (const element value : stages) {
    const std::string path = fmt::format("pre_tokenizer.pretokenizers[{}].", i);
    object stage;
    if (value.get(stage) != simdjson::SUCCESS) return Bad(path, "must be an object");
    if (i < std::size(kSplitPatterns)) {
      RETURN_IF_ERROR(CheckSplit(stage, path, kSplitPatterns[i]));
    } else {
      RETURN_IF_ERROR(CheckType(stage, path, "ByteLevel"));
      ASSIGN_OR_RETURN(const bool prefix_space, Flag(stage, path, "add_prefix_space"));
      // Absent means true.
      bool use_regex = true;
      if (const auto found = Member(stage, "use_regex"); found && found->get(use_regex) != simdjson::SUCCESS) {
        return Bad(fmt::format("{}use_regex", path), "must be true or false");
      }
      if (prefix_space || use_regex) return Bad(path, "add_prefix_space and use_regex must be false");
    }
    ++i;
  }
  return absl::OkStatus();
}

absl::Status CheckStages(const object& root) {
  if (const auto normalizer = Member(root, "normalizer")) {
    // An empty sequence is how some files say "none".
    object sequence;
    array normalizers;
    if (normalizer->get(sequence) != simdjson::SUCCESS ||
        sequence["normalizers"].get(normalizers) != simdjson::SUCCESS || normalizers.size() != 0) {
      return Bad("normalizer", "must be empty: DeepSeek-V4 takes text as it is");
    }
  }
  RETURN_IF_ERROR(CheckPreTokenizer(root));
  ASSIGN_OR_RETURN(const object decoder, Required<object>(root, "", "decoder", "an object"));
  return CheckType(decoder, "decoder.", "ByteLevel");
}

absl::Status CheckModelOptions(const object& model) {
  RETURN_IF_ERROR(CheckType(model, "model.", "BPE"));
  if (const auto dropout = Member(model, "dropout")) {
    double value = 1;
    if (dropout->get(value) != simdjson::SUCCESS || value != 0) return Bad("model.dropout", "must be null");
  }
  if (Member(model, "unk_token")) return Bad("model.unk_token", "must be null: bytes are never unknown");
  for (const char* const key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    std::string_view text = "x";
    if (const auto value = Member(model, key); value && (value->get(text) != simdjson::SUCCESS || !text.empty())) {
      return Bad(fmt::format("model.{}", key), "must be null");
    }
  }
  for (const char* const key : {"byte_fallback", "ignore_merges"}) {
    ASSIGN_OR_RETURN(const bool on, Flag(model, "model.", key));
    if (on) return Bad(fmt::format("model.{}", key), "must be false");
  }
  return absl::OkStatus();
}

// alphabet character -> byte; kNoByte elsewhere.
constexpr uint32_t kAlphabetEnd = 256 + 68;
constexpr uint16_t kNoByte = 256;

std::array<uint16_t, kAlphabetEnd> AlphabetToByte() {
  std::array<uint16_t, kAlphabetEnd> table;
  table.fill(kNoByte);
  for (uint16_t b = 0; b < 256; ++b) table[ByteToAlphabet(static_cast<uint8_t>(b))] = b;
  return table;
}

// Fills one TokenizerFile from a parsed document, whose strings it points into.
class Builder {
 public:
  explicit Builder(const TokenizerLimits& limits) : limits_(limits), alphabet_(AlphabetToByte()) {}

  absl::StatusOr<TokenizerFile> Build(const object& root) {
    RETURN_IF_ERROR(CheckStages(root));
    ASSIGN_OR_RETURN(const object model, Required<object>(root, "", "model", "an object"));
    RETURN_IF_ERROR(CheckModelOptions(model));
    RETURN_IF_ERROR(ReadVocab(model));
    RETURN_IF_ERROR(ReadByteTokens());
    RETURN_IF_ERROR(ReadMerges(model));
    RETURN_IF_ERROR(ReadAddedTokens(root));
    return std::move(file_);
  }

 private:
  absl::Status TakeId(std::string_view path, uint64_t id) {
    if (id >= limits_.ids_max) {
      return Bad(path, fmt::format("id {} is out of range, the limit is {}", id, limits_.ids_max - 1));
    }
    if (id >= taken_.size()) taken_.resize(id + 1, false);
    if (taken_[id]) return Bad(path, fmt::format("id {} is used twice", id));
    taken_[id] = true;
    file_.vocab_size = static_cast<uint32_t>(taken_.size());
    return absl::OkStatus();
  }

  absl::Status ReadVocab(const object& model) {
    ASSIGN_OR_RETURN(const object vocab, Required<object>(model, "model.", "vocab", "an object"));
    // simdjson counts up to 0xFFFFFF and bounds that by the file; the ids bound the rest.
    if (vocab.size() > limits_.ids_max) {
      return Bad("model.vocab", fmt::format("has more than {} pieces", limits_.ids_max));
    }
    file_.tokens.reserve(vocab.size());
    ids_.reserve(vocab.size());
    for (const auto& [piece, value] : vocab) {
      const auto path = [&p = piece] { return fmt::format("model.vocab[\"{}\"]", p.substr(0, 64)); };
      uint64_t id = 0;
      if (value.get(id) != simdjson::SUCCESS) return Bad(path(), "must be a non-negative integer");
      if (piece.empty() || piece.size() > limits_.piece_bytes_max) {
        return Bad(path(), fmt::format("a piece must have 1 to {} bytes", limits_.piece_bytes_max));
      }
      if (absl::Status status = TakeId("model.vocab", id); !status.ok()) return Annotate(status, path());
      if (!ids_.emplace(piece, static_cast<uint32_t>(id)).second) return Bad(path(), "appears twice");
      file_.tokens.push_back(DecodePiece(piece, static_cast<uint32_t>(id)));
    }
    return absl::OkStatus();
  }

  TokenizerFile::Token DecodePiece(std::string_view piece, uint32_t id) const {
    TokenizerFile::Token token{id, {}, true};
    for (size_t pos = 0; pos < piece.size();) {
      const CodePoint c = DecodeAt(piece, pos);
      if (c.value >= kAlphabetEnd || alphabet_[c.value] == kNoByte) return {id, std::string(piece), false};
      token.bytes.push_back(static_cast<char>(alphabet_[c.value]));
      pos += c.bytes;
    }
    return token;
  }

  absl::Status ReadByteTokens() {
    for (uint32_t b = 0; b < 256; ++b) {
      std::string piece;
      AppendCodePoint(ByteToAlphabet(static_cast<uint8_t>(b)), piece);
      const auto it = ids_.find(piece);
      if (it == ids_.end()) return Bad("model.vocab", fmt::format("has no piece for byte {}, \"{}\"", b, piece));
      file_.byte_tokens[b] = it->second;
    }
    return absl::OkStatus();
  }

  // Either "left right" or ["left", "right"].
  static std::optional<std::pair<std::string_view, std::string_view>> MergeSides(const element& value) {
    std::string_view text;
    if (value.get(text) == simdjson::SUCCESS) {
      const size_t blank = text.find(' ');
      if (blank == std::string_view::npos || text.find(' ', blank + 1) != std::string_view::npos) return std::nullopt;
      return std::pair{text.substr(0, blank), text.substr(blank + 1)};
    }
    array sides;
    std::string_view left;
    std::string_view right;
    if (value.get(sides) != simdjson::SUCCESS || sides.size() != 2 || sides.at(0).get(left) != simdjson::SUCCESS ||
        sides.at(1).get(right) != simdjson::SUCCESS) {
      return std::nullopt;
    }
    return std::pair{left, right};
  }

  absl::Status ReadMerges(const object& model) {
    ASSIGN_OR_RETURN(const array merges, Required<array>(model, "model.", "merges", "an array"));
    if (merges.size() > limits_.merges_max) {
      return Bad("model.merges", fmt::format("has more than {} entries", limits_.merges_max));
    }
    file_.merges.reserve(merges.size());
    std::string joined;
    for (const element value : merges) {
      const auto path = [this] { return fmt::format("model.merges[{}]", file_.merges.size()); };
      const auto sides = MergeSides(value);
      if (!sides) return Bad(path(), "must be two pieces");
      joined.assign(sides->first).append(sides->second);
      TokenizerFile::Merge merge{};
      const std::pair<std::string_view, uint32_t*> wanted[] = {
          {sides->first, &merge.left}, {sides->second, &merge.right}, {joined, &merge.merged}};
      for (const auto& [piece, id] : wanted) {
        const auto it = ids_.find(piece);
        if (it == ids_.end()) {
          return Bad(path(), fmt::format("names \"{}\", which is not in the vocabulary", piece.substr(0, 64)));
        }
        *id = it->second;
      }
      file_.merges.push_back(merge);
    }
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens(const object& root) {
    if (!Member(root, "added_tokens")) return absl::OkStatus();
    ASSIGN_OR_RETURN(const array added, Required<array>(root, "", "added_tokens", "an array"));
    if (added.size() > limits_.added_tokens_max) {
      return Bad("added_tokens", fmt::format("has more than {} entries", limits_.added_tokens_max));
    }
    absl::flat_hash_map<std::string_view, uint32_t> contents;
    for (const element value : added) {
      const std::string path = fmt::format("added_tokens[{}].", file_.added_tokens.size());
      object token;
      if (value.get(token) != simdjson::SUCCESS) return Bad(path, "must be an object");
      ASSIGN_OR_RETURN(const uint64_t id, Required<uint64_t>(token, path, "id", "a non-negative integer"));
      ASSIGN_OR_RETURN(const std::string_view content, Required<std::string_view>(token, path, "content", "a string"));
      if (content.empty() || content.size() > limits_.added_content_bytes_max) {
        return Bad(fmt::format("{}content", path),
                   fmt::format("must have 1 to {} bytes", limits_.added_content_bytes_max));
      }
      if (!contents.emplace(content, static_cast<uint32_t>(id)).second) {
        return Bad(fmt::format("{}content", path), fmt::format("\"{}\" appears twice", content));
      }
      // Files may list an added token in the vocabulary too, under the same id.
      if (const auto it = ids_.find(content); it == ids_.end() || it->second != id) {
        if (it != ids_.end()) {
          return Bad(fmt::format("{}id", path), fmt::format("is {}, but model.vocab says {}", id, it->second));
        }
        RETURN_IF_ERROR(TakeId(fmt::format("{}id", path), id));
      }
      for (const char* const key : {"single_word", "lstrip", "rstrip"}) {
        ASSIGN_OR_RETURN(const bool on, Flag(token, path, key));
        if (on) return Bad(fmt::format("{}{}", path, key), "must be false: added tokens are matched literally");
      }
      ASSIGN_OR_RETURN(const bool special, Flag(token, path, "special"));
      ASSIGN_OR_RETURN(const bool normalized, Flag(token, path, "normalized"));
      file_.added_tokens.push_back({static_cast<uint32_t>(id), std::string(content), special, normalized});
    }
    return absl::OkStatus();
  }

  const TokenizerLimits& limits_;
  const std::array<uint16_t, kAlphabetEnd> alphabet_;
  TokenizerFile file_{};
  absl::flat_hash_map<std::string_view, uint32_t> ids_;  // of the vocabulary
  std::vector<bool> taken_;                              // by id
};

absl::StatusOr<TokenizerFile> Read(const std::filesystem::path& path, const TokenizerLimits& limits) {
  ASSIGN_OR_RETURN(const std::string text, ReadJsonFile(path, limits.file_bytes_max));
  simdjson::dom::parser parser(limits.file_bytes_max + 1);
  if (const auto code = parser.allocate(text.size() + 1, kJsonDepthMax); code != simdjson::SUCCESS) {
    return absl::ResourceExhaustedError(simdjson::error_message(code));
  }
  object root;
  if (const auto code = parser.parse(text).get(root); code != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(fmt::format("is not a JSON object: {}", simdjson::error_message(code)));
  }
  return Builder(limits).Build(root);
}

}  // namespace

uint32_t ByteToAlphabet(uint8_t byte) {
  const auto printable = [](uint32_t b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
  if (printable(byte)) return byte;
  uint32_t rank = 0;
  for (uint32_t b = 0; b < byte; ++b) rank += printable(b) ? 0 : 1;
  return 256 + rank;
}

absl::StatusOr<TokenizerFile> ReadTokenizerFile(const std::filesystem::path& path, const TokenizerLimits& limits) {
  absl::StatusOr<TokenizerFile> file = Read(path, limits);
  if (!file.ok()) return Annotate(file.status(), path.string());
  return file;
}

}  // namespace longshelf::tokenizer::internal
