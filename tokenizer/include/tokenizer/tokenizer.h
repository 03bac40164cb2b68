#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace longshelf::tokenizer {

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const TextRange&) const = default;
};

// Byte-level BPE of tokenizer.json with the V4 pre-tokenizer. Immutable after loading; any number of threads may use
// one. No call here is slower than linear in its input up to a logarithm.
class Tokenizer {
 public:
  // INVALID_ARGUMENT: names the file, the key and the reason. The pre-tokenizer is compiled in: a tokenizer.json that
  // declares another one is refused.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const std::filesystem::path& model_dir);
  ~Tokenizer();

  // Added tokens are matched literally first; BOS is never added. Invalid UTF-8 is INVALID_ARGUMENT with its offset.
  // max_tokens bounds the work: RESOURCE_EXHAUSTED as soon as more are produced.
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text, size_t max_tokens = SIZE_MAX) const;
  // Same, but special tokens in the text are ordinary text: for content that users control.
  absl::StatusOr<std::vector<uint32_t>> EncodeOrdinary(std::string_view text, size_t max_tokens = SIZE_MAX) const;

  // As Encode, but added tokens are found outside of `ordinary` only, each wholly between two of these ranges: what
  // they hold is ordinary text, also together with what stands around it. Text without added tokens in these ranges
  // gives what Encode gives: pieces are cut and merged across their borders. REQUIRES: the ranges are in order, apart
  // and within the text.
  absl::StatusOr<std::vector<uint32_t>> EncodeMixed(std::string_view text, std::span<const TextRange> ordinary,
                                                    size_t max_tokens = SIZE_MAX) const;

  // Bytes of the tokens, invalid UTF-8 replaced by U+FFFD. skip_special drops special added tokens.
  std::string Decode(std::span<const uint32_t> ids, bool skip_special = false) const;
  // Raw bytes of one token; empty for an unknown id.
  std::string_view TokenBytes(uint32_t id) const;
  std::optional<uint32_t> TokenId(std::string_view content) const;  // added tokens and vocabulary pieces by raw bytes
  bool IsSpecial(uint32_t id) const;
  uint32_t vocab_size() const;

 private:
  Tokenizer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of tokens into a stream of text that never ends inside a code point. One per output stream.
class StreamDecoder {
 public:
  // `tokenizer` must outlive this.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false);
  // The text that became certain with this token; may be empty.
  std::string Push(uint32_t id);
  void PushTo(uint32_t id, std::string& out);  // appends
  // What is left, with U+FFFD for an unfinished code point.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;
};

// Finds the stop string that is complete first in streamed text (of several that end at one place the longest),
// holding back only what may still become one. Linear in the text, whatever the stop strings; text and stop strings in
// valid UTF-8 are never cut inside a code point. Empty stop strings are ignored.
class StopMatcher {
 public:
  explicit StopMatcher(const std::vector<std::string>& stops);
  struct Result {
    std::string text;  // safe to emit; ends before the stop string
    bool stopped = false;
  };
  // Once stopped, further text is dropped.
  Result Push(std::string_view text);
  std::string Finish();  // what was held back
  // The stop string that was found; empty before.
  const std::string& found() const { return found_; }

 private:
  struct Node {
    uint32_t depth = 0;
    uint32_t suffix = 0;      // node of the longest proper suffix
    uint32_t stop_bytes = 0;  // of the longest stop string that ends here; 0 if none does
    std::vector<std::pair<char, uint32_t>> children;
  };
  uint32_t Child(uint32_t node, char byte) const;
  uint32_t AddChild(uint32_t node, char byte);
  uint32_t Next(uint32_t node, char byte) const;
  void Link();

  std::vector<Node> nodes_;  // 0 is the root
  uint32_t state_ = 0;
  std::string held_;
  std::string found_;
  bool stopped_ = false;
};

}  // namespace longshelf::tokenizer
