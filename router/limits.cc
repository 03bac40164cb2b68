#include "router/limits.h"

#include <array>
#include <limits>

#include "common/check.h"

namespace longshelf::router {
namespace {

constexpr int64_t kMaxOutputTokens = int64_t{1} << 20;
constexpr int64_t kMaxChoices = 16;

constexpr std::array<NumericLimit, static_cast<size_t>(NumericField::kCount)> kNumericLimits = {{
    // Beyond the context that is left, both are lowered to it; finish_reason then is "length".
    {NumericField::kMaxTokens, "max_tokens", Api::kBoth, true, true, 1, kMaxOutputTokens},
    {NumericField::kMaxCompletionTokens, "max_completion_tokens", Api::kBoth, true, true, 1, kMaxOutputTokens},
    {NumericField::kN, "n", Api::kBoth, true, true, 1, kMaxChoices},
    // At least n.
    {NumericField::kBestOf, "best_of", Api::kCompletions, true, true, 1, kMaxChoices},
    {NumericField::kTemperature, "temperature", Api::kBoth, false, true, 0, 2},
    {NumericField::kTopP, "top_p", Api::kBoth, false, true, 0, 1},
    // 0 and -1 both mean "off".
    {NumericField::kTopK, "top_k", Api::kBoth, true, true, -1, int64_t{1} << 20},
    {NumericField::kMinP, "min_p", Api::kBoth, false, true, 0, 1},
    {NumericField::kSeed, "seed", Api::kBoth, true, true, std::numeric_limits<int64_t>::min(),
     std::numeric_limits<int64_t>::max()},
    {NumericField::kPresencePenalty, "presence_penalty", Api::kBoth, false, true, -2, 2},
    {NumericField::kFrequencyPenalty, "frequency_penalty", Api::kBoth, false, true, -2, 2},
    {NumericField::kTopLogprobs, "top_logprobs", Api::kChat, true, true, 0, 20},
    {NumericField::kLogprobs, "logprobs", Api::kCompletions, true, true, 0, 5},
    // Of a session, in seconds: a year, what workers park for at most.
    {NumericField::kRetention, "retention_s", Api::kSession, true, false, 1, 366 * 24 * 3600},
}};

constexpr bool RowsAreInOrder() {
  for (size_t i = 0; i < kNumericLimits.size(); ++i) {
    if (static_cast<size_t>(kNumericLimits[i].field) != i) return false;
  }
  return true;
}
static_assert(RowsAreInOrder(), "LimitOf() indexes the table by field");

}  // namespace

std::span<const NumericLimit> NumericLimits() { return kNumericLimits; }

const NumericLimit& LimitOf(NumericField field) {
  const auto i = static_cast<size_t>(field);
  LONGSHELF_CHECK(i < kNumericLimits.size());
  return kNumericLimits[i];
}

}  // namespace longshelf::router
