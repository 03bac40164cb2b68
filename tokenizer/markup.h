#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/completion_parser.h"

namespace longshelf::tokenizer::internal {

// What strict parsing takes off before a block.
inline constexpr size_t kNewlinesBeforeBlock = 2;

// What has a meaning in a completion.
enum class Markup : uint8_t {
  kThinkEnd,
  kEos,
  kSentinel,  // ｜DSML｜ that is part of nothing else, with the bracket before it
  kBlockBegin,
  kBlockEnd,
  kCallBegin,
  kCallEnd,
  kParameterBegin,
  kParameterEnd,
};

// A set of them.
using MarkupSet = uint32_t;
constexpr MarkupSet operator|(Markup a, Markup b) {
  return MarkupSet{1} << static_cast<unsigned>(a) | MarkupSet{1} << static_cast<unsigned>(b);
}
constexpr MarkupSet operator|(MarkupSet set, Markup b) { return set | MarkupSet{1} << static_cast<unsigned>(b); }
constexpr bool Contains(MarkupSet set, Markup kind) { return (set >> static_cast<unsigned>(kind) & 1) != 0; }

struct FoundMarkup {
  Markup kind;
  size_t begin;
  size_t end;
};

// Text that is looked at once, whatever pieces it comes in. Its user says how far it is done with it.
class MarkupScanner {
 public:
  void Append(std::string_view text) { held_.append(text); }
  // The next markup of the set, behind which scanning goes on. Nothing: there is none, and safe_end() is the end or
  // where some may begin.
  std::optional<FoundMarkup> Next(MarkupSet wanted);
  size_t safe_end() const { return scan_; }
  size_t size() const { return held_.size(); }
  std::string_view tail() const { return std::string_view(held_).substr(scan_); }  // behind safe_end()
  // What is not done with, up to `end`.
  std::string_view UpTo(size_t end) const { return std::string_view(held_).substr(begin_, end - begin_); }
  void DoneUpTo(size_t end) { begin_ = end; }
  // Skips the ">" that ends the markup just read, if one comes. True until that is known.
  bool AwaitsBracket();
  void SkipBracket() { skip_bracket_ = true; }

  // Moves what is held to the front. Once per Append at most.
  void DropDone();
  // `end`, or in front of as many newlines before it as may belong to a block.
  size_t WithoutNewlines(size_t end, size_t n_max) const;
  // At the end of the stream: what stands behind safe_end() is markup that was cut off.
  bool EndsInsideMarkup(StreamEnd end) const;
  uint64_t work() const { return work_; }

 private:
  std::string held_;
  size_t begin_ = 0;  // held_ before this is done with
  size_t scan_ = 0;   // held_ before this has no unseen markup
  bool skip_bracket_ = false;
  uint64_t work_ = 0;
};

// Text as a client may see it: without ｜DSML｜ and the brackets before it, whatever stood in between.
class CleanText {
 public:
  void Append(std::string_view text, std::string& out);
  // Something was left out here. Halves of a marker on its two sides do not grow together.
  void Break() { is_broken_ = true; }

 private:
  void Write(std::string_view text, std::string& out);
  std::string last_;  // bytes that were written
  bool is_broken_ = false;
};

}  // namespace longshelf::tokenizer::internal
