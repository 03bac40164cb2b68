#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "added_tokens.h"
#include "bpe.h"
#include "common/status.h"
#include "pretokenizer.h"
#include "tokenizer_file.h"
#include "utf8.h"

namespace longshelf::tokenizer {

using internal::AddedTokenMatcher;
using internal::TokenizerFile;

// Symbols of the merge loop are indexed with 32 bits.
constexpr size_t kTextBytesMax = 1u << 30;

struct Tokenizer::Impl {
  // A text of which some ranges hold no added tokens, whatever they spell.
  struct Mixed {
    std::string_view text;
    std::span<const TextRange> ordinary;
    // Outside of them, from `from` on and before `end`.
    AddedTokenMatcher::Match Find(const AddedTokenMatcher& matcher, size_t from, size_t end) const;
  };
  explicit Impl(const TokenizerFile& file);
  absl::Status AddMerges(const TokenizerFile& file);
  void AddTokens(const TokenizerFile& file);

  struct Output {
    std::vector<uint32_t> ids;
    size_t tokens_max;
    bool full() const { return ids.size() > tokens_max; }
  };
  void EncodeOrdinary(std::string_view text, Output& out) const;
  // Cuts [range) at the contents of `matcher`; the range between two of them goes to `between`.
  template <typename Between>
  void EncodeAround(const AddedTokenMatcher& matcher, const Mixed& mixed, TextRange range, Output& out,
                    Between&& between) const;
  absl::Status Check(std::string_view text, size_t tokens_max) const;

  internal::PreTokenizer pre_tokenizer;
  internal::BpeMerges merges;
  // HF matches added tokens in two rounds; V4's are all in the first.
  AddedTokenMatcher added_first;
  AddedTokenMatcher added_second;

  std::string arena;                                    // raw bytes of all tokens, by id
  std::vector<uint32_t> offsets;                        // token id is arena[offsets[id], offsets[id + 1])
  std::vector<bool> special;                            // by id
  absl::flat_hash_map<std::string_view, uint32_t> ids;  // into the arena
  size_t token_bytes_max = 1;
  uint32_t vocab_size;
};

Tokenizer::Impl::Impl(const TokenizerFile& file)
    : merges(std::to_array(file.byte_tokens)), special(file.vocab_size, false), vocab_size(file.vocab_size) {}

absl::Status Tokenizer::Impl::AddMerges(const TokenizerFile& file) {
  merges.Reserve(file.merges.size());
  std::vector<size_t> lengths(vocab_size);
  for (const TokenizerFile::Token& token : file.tokens) lengths[token.id] = token.bytes.size();
  for (uint32_t rank = 0; rank < file.merges.size(); ++rank) {
    const TokenizerFile::Merge& merge = file.merges[rank];
    if (!merges.Add(merge.left, merge.right, {rank, merge.merged}, lengths[merge.merged])) {
      return absl::InvalidArgumentError(absl::StrCat("model.merges[", rank, "]: repeats an earlier entry"));
    }
  }
  return absl::OkStatus();
}

void Tokenizer::Impl::AddTokens(const TokenizerFile& file) {
  std::vector<std::string_view> bytes(vocab_size);
  for (const TokenizerFile::Token& token : file.tokens) bytes[token.id] = token.bytes;
  for (const TokenizerFile::AddedToken& token : file.added_tokens) {
    bytes[token.id] = token.content;
    special[token.id] = token.special;
    (token.normalized ? added_second : added_first).Add(token.content, token.id);
  }
  offsets.reserve(vocab_size + size_t{1});
  for (const std::string_view b : bytes) {
    offsets.push_back(static_cast<uint32_t>(arena.size()));
    arena.append(b);
    token_bytes_max = std::max(token_bytes_max, b.size());
  }
  offsets.push_back(static_cast<uint32_t>(arena.size()));

  const auto in_arena = [this](uint32_t id) {
    return std::string_view(arena).substr(offsets[id], offsets[id + 1] - offsets[id]);
  };
  ids.reserve(vocab_size);
  for (const TokenizerFile::AddedToken& token : file.added_tokens) ids.emplace(in_arena(token.id), token.id);
  for (const bool byte_level : {true, false}) {
    for (const TokenizerFile::Token& token : file.tokens) {
      if (token.byte_level == byte_level) ids.emplace(in_arena(token.id), token.id);
    }
  }
}

absl::Status Tokenizer::Impl::Check(std::string_view text, size_t tokens_max) const {
  if (text.size() > kTextBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", text.size(), " bytes, the limit is ", kTextBytesMax));
  }
  if (text.size() / token_bytes_max > tokens_max) {
    return absl::ResourceExhaustedError(absl::StrCat("the text has more than ", tokens_max, " tokens"));
  }
  if (const size_t offset = internal::FindInvalidUtf8(text); offset != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("the text is not valid UTF-8 at byte ", offset));
  }
  return absl::OkStatus();
}

void Tokenizer::Impl::EncodeOrdinary(std::string_view text, Output& out) const {
  pre_tokenizer.Split(text, [&](std::string_view piece) {
    merges.Encode(piece, out.tokens_max, out.ids);
    return !out.full();
  });
}

AddedTokenMatcher::Match Tokenizer::Impl::Mixed::Find(const AddedTokenMatcher& matcher, size_t from, size_t end) const {
  if (matcher.empty()) return AddedTokenMatcher::kNoMatch;
  // The first range that ends behind `from`.
  auto next = std::upper_bound(ordinary.begin(), ordinary.end(), from,
                               [](size_t at, const TextRange& range) { return at < range.end; });
  while (from < end) {
    const size_t begin = next == ordinary.end() ? end : std::min(next->begin, end);
    if (from < begin) {
      const AddedTokenMatcher::Match match = matcher.Find(text.substr(0, begin), from);
      if (match.begin != std::string_view::npos) return match;
    }
    if (next == ordinary.end()) break;
    from = std::max(from, next->end);
    ++next;
  }
  return AddedTokenMatcher::kNoMatch;
}

template <typename Between>
void Tokenizer::Impl::EncodeAround(const AddedTokenMatcher& matcher, const Mixed& mixed, TextRange range, Output& out,
                                   Between&& between) const {
  size_t pos = range.begin;
  while (pos < range.end && !out.full()) {
    const AddedTokenMatcher::Match match = mixed.Find(matcher, pos, range.end);
    const size_t end = std::min(match.begin, range.end);
    if (end > pos) between(TextRange{pos, end});
    if (match.begin == std::string_view::npos || out.full()) return;
    out.ids.push_back(match.id);
    pos = match.begin + match.bytes;
  }
}

Tokenizer::Tokenizer() = default;
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "tokenizer.json";
  ASSIGN_OR_RETURN(const TokenizerFile file, internal::ReadTokenizerFile(path));
  auto impl = std::make_unique<Impl>(file);
  if (absl::Status status = impl->AddMerges(file); !status.ok()) return Annotate(status, path.string());
  impl->AddTokens(file);
  struct Constructible : Tokenizer {};
  auto tokenizer = std::make_shared<Constructible>();
  tokenizer->impl_ = std::move(impl);
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

namespace {

absl::StatusOr<std::vector<uint32_t>> Finish(std::vector<uint32_t> ids, size_t tokens_max) {
  if (ids.size() <= tokens_max) return ids;
  return absl::ResourceExhaustedError(absl::StrCat("the text has more than ", tokens_max, " tokens"));
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> Tokenizer::Encode(std::string_view text, size_t max_tokens) const {
  return EncodeMixed(text, {}, max_tokens);
}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::EncodeMixed(std::string_view text, std::span<const TextRange> ordinary,
                                                             size_t max_tokens) const {
  RETURN_IF_ERROR(impl_->Check(text, max_tokens));
  Impl::Output out{{}, max_tokens};
  const Impl::Mixed mixed{text, ordinary};
  impl_->EncodeAround(impl_->added_first, mixed, {0, text.size()}, out, [&](TextRange gap) {
    impl_->EncodeAround(impl_->added_second, mixed, gap, out, [&](TextRange piece) {
      impl_->EncodeOrdinary(text.substr(piece.begin, piece.end - piece.begin), out);
    });
  });
  return Finish(std::move(out.ids), max_tokens);
}

absl::StatusOr<std::vector<uint32_t>> Tokenizer::EncodeOrdinary(std::string_view text, size_t max_tokens) const {
  RETURN_IF_ERROR(impl_->Check(text, max_tokens));
  Impl::Output out{{}, max_tokens};
  impl_->EncodeOrdinary(text, out);
  return Finish(std::move(out.ids), max_tokens);
}

std::string Tokenizer::Decode(std::span<const uint32_t> ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string out;
  for (const uint32_t id : ids) decoder.PushTo(id, out);
  out += decoder.Finish();
  return out;
}

std::string_view Tokenizer::TokenBytes(uint32_t id) const {
  if (id >= impl_->vocab_size) return {};
  const uint32_t begin = impl_->offsets[id];
  return std::string_view(impl_->arena).substr(begin, impl_->offsets[id + 1] - begin);
}

std::optional<uint32_t> Tokenizer::TokenId(std::string_view content) const {
  const auto it = impl_->ids.find(content);
  if (it == impl_->ids.end()) return std::nullopt;
  return it->second;
}

bool Tokenizer::IsSpecial(uint32_t id) const { return id < impl_->vocab_size && impl_->special[id]; }

uint32_t Tokenizer::vocab_size() const { return impl_->vocab_size; }

}  // namespace longshelf::tokenizer
