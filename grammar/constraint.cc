#include "grammar/constraint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "program.h"
#include "token_masks.h"

namespace longshelf::grammar {

Constraint::Constraint(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary)
    : grammar_(std::move(grammar)),
      vocabulary_(std::move(vocabulary)),
      masks_(std::make_unique<TokenMasks>(grammar_->program(), *vocabulary_)) {}
Constraint::~Constraint() = default;

std::shared_ptr<const TokenBits> Constraint::TokensAt(const Position& position) {
  const std::lock_guard lock(mutex_);
  return masks_->At(position);
}

OutputState::OutputState(std::shared_ptr<Constraint> constraint, std::vector<uint32_t> end_tokens)
    : constraint_(std::move(constraint)),
      end_tokens_(std::move(end_tokens)),
      position_(std::make_unique<Position>(constraint_->grammar().start())) {}
OutputState::~OutputState() = default;

absl::Status OutputState::Push(uint32_t token) {
  if (position_->may_end() && std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end()) {
    return absl::OkStatus();
  }
  const auto symbols = constraint_->vocabulary().SymbolsOf(token);
  Position next = *position_;
  for (const uint16_t symbol : symbols) next = constraint_->grammar().program().Next(next, symbol);
  if (symbols.empty() || next.is_dead()) {
    return absl::FailedPreconditionError(
        absl::StrCat("token ", token, " does not follow in the form that is asked for"));
  }
  *position_ = std::move(next);
  return absl::OkStatus();
}

absl::StatusOr<TokenBits> OutputState::Allowed() const {
  TokenBits bits = *constraint_->TokensAt(*position_);
  bool any = std::any_of(bits.begin(), bits.end(), [](uint64_t word) { return word != 0; });
  for (const uint32_t token : end_tokens_) {
    if (token / 64 >= bits.size()) bits.resize(token / 64 + size_t{1}, 0);
    const uint64_t bit = uint64_t{1} << (token % 64);
    if (position_->may_end()) {
      bits[token / 64] |= bit;
      any = true;
    } else {
      bits[token / 64] &= ~bit;
    }
  }
  if (any) return bits;
  return absl::FailedPreconditionError("no token of this model's vocabulary goes on in the form that is asked for");
}

absl::StatusOr<std::shared_ptr<Constraint>> ConstraintCache::Get(std::string_view spec) {
  const auto find = [&]() -> std::shared_ptr<Constraint> {
    const auto it = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& kept) { return kept.spec == spec; });
    if (it == kept_.end()) return nullptr;
    kept_.splice(kept_.begin(), kept_, it);
    return it->constraint;
  };
  {
    const std::lock_guard lock(mutex_);
    if (auto found = find()) return found;
  }
  ASSIGN_OR_RETURN(const OutputSpec parsed, OutputSpec::Parse(spec));
  ASSIGN_OR_RETURN(std::shared_ptr<const Grammar> grammar, Grammar::Compile(parsed));
  auto made = std::make_shared<Constraint>(std::move(grammar), vocabulary_);
  const std::lock_guard lock(mutex_);
  if (auto found = find()) return found;
  kept_.push_front({std::string(spec), made});
  if (kept_.size() > kKept) kept_.pop_back();
  return made;
}

}  // namespace longshelf::grammar
