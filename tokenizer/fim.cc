#include "tokenizer/fim.h"

#include <array>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "chat_protocol.h"
#include "common/status.h"

namespace longshelf::tokenizer {
namespace {

// DeepSeek's vocabularies have had them since V3.
constexpr std::string_view kFimBegin = "<｜fim▁begin｜>";
constexpr std::string_view kFimHole = "<｜fim▁hole｜>";
constexpr std::string_view kFimEnd = "<｜fim▁end｜>";

}  // namespace

absl::StatusOr<std::vector<uint32_t>> EncodeFim(const Tokenizer& tokenizer, std::string_view prefix,
                                                std::string_view suffix, size_t max_tokens) {
  constexpr std::array<std::string_view, 4> kMarks = {protocol::kBos, kFimBegin, kFimHole, kFimEnd};
  std::array<uint32_t, kMarks.size()> marks{};
  std::string lacking;
  for (size_t i = 0; i < kMarks.size(); ++i) {
    const std::optional<uint32_t> id = tokenizer.TokenId(kMarks[i]);
    if (id.has_value() && tokenizer.IsSpecial(*id)) {
      marks[i] = *id;
    } else {
      absl::StrAppend(&lacking, lacking.empty() ? "" : ", ", absl::string_view(kMarks[i].data(), kMarks[i].size()));
    }
  }
  if (!lacking.empty()) return absl::FailedPreconditionError(absl::StrCat("its vocabulary has no ", lacking));
  const size_t n_text_max = max_tokens < marks.size() ? 0 : max_tokens - marks.size();
  ASSIGN_OR_RETURN(const std::vector<uint32_t> before, tokenizer.EncodeOrdinary(prefix, n_text_max));
  ASSIGN_OR_RETURN(const std::vector<uint32_t> after, tokenizer.EncodeOrdinary(suffix, n_text_max - before.size()));
  std::vector<uint32_t> out = {marks[0], marks[1]};
  out.insert(out.end(), before.begin(), before.end());
  out.push_back(marks[2]);
  out.insert(out.end(), after.begin(), after.end());
  out.push_back(marks[3]);
  return out;
}

}  // namespace longshelf::tokenizer
