#include "router/key_meters.h"

#include <algorithm>
#include <cmath>

namespace longshelf::router {

namespace {

// Of sums of doubles: whoever comes back when he was told to gets in.
constexpr double kRounding = 1e-6;
constexpr double kRetryAfterMax = 86'400;

}  // namespace

void MinuteBucket::Fill(absl::Time now) {
  if (filled_at_ != absl::InfinitePast() && now > filled_at_) {
    level_ = std::min(per_minute_, level_ + per_minute_ * absl::ToDoubleMinutes(now - filled_at_));
  }
  filled_at_ = std::max(filled_at_, now);
}

absl::Duration MinuteBucket::TimeUntil(uint64_t n, absl::Time now) {
  if (per_minute_ == 0) return absl::ZeroDuration();
  Fill(now);
  const double missing = std::min(static_cast<double>(n), per_minute_) - level_;
  return missing <= kRounding ? absl::ZeroDuration() : absl::Minutes(missing / per_minute_);
}

void MinuteBucket::Take(uint64_t n, absl::Time now) {
  if (per_minute_ == 0) return;
  Fill(now);
  level_ -= static_cast<double>(n);
}

struct KeyMeters::Meter {
  explicit Meter(std::shared_ptr<const ApiKey> of)
      : key(std::move(of)), requests(key->limits.n_requests_per_minute), tokens(key->limits.n_tokens_per_minute) {}

  const std::shared_ptr<const ApiKey> key;
  uint32_t n_requests = 0;  // at once
  MinuteBucket requests;
  MinuteBucket tokens;
};

KeyMeters::KeyMeters(RouterMetrics& metrics) : metrics_(metrics) {}
KeyMeters::~KeyMeters() = default;

ApiError KeyMeters::Refuse(const char* limit, const char* excess, absl::Duration wait) {
  metrics_.RateLimited(limit);
  return QuotaExceeded(
      excess, static_cast<int>(std::ceil(std::clamp(absl::ToDoubleSeconds(wait) - kRounding, 1.0, kRetryAfterMax))));
}

std::variant<KeyMeters::Use, ApiError> KeyMeters::Begin(const std::shared_ptr<const ApiKey>& key, absl::Time now) {
  Use use;
  if (key == nullptr) return use;
  std::unique_ptr<Meter>& meter = meters_[key.get()];
  if (meter == nullptr) meter = std::make_unique<Meter>(key);
  const KeyLimits& limits = key->limits;
  if (limits.n_requests_max > 0 && meter->n_requests >= limits.n_requests_max) {
    return Refuse("requests_at_once", "requests at once", absl::ZeroDuration());
  }
  if (const auto wait = meter->requests.TimeUntil(1, now); wait > absl::ZeroDuration()) {
    return Refuse("requests_per_minute", "requests per minute", wait);
  }
  if (const auto wait = meter->tokens.TimeUntil(1, now); wait > absl::ZeroDuration()) {
    return Refuse("tokens_per_minute", "tokens per minute", wait);
  }
  ++meter->n_requests;
  meter->requests.Take(1, now);
  use.owner_ = this;
  use.meter_ = meter.get();
  return use;
}

KeyMeters::Use::~Use() {
  if (meter_ != nullptr) --meter_->n_requests;
}

std::optional<ApiError> KeyMeters::Use::CheckPrompt(uint64_t n_tokens, absl::Time now) {
  if (meter_ == nullptr) return std::nullopt;
  const absl::Duration wait = meter_->tokens.TimeUntil(n_tokens, now);
  if (wait == absl::ZeroDuration()) return std::nullopt;
  return owner_->Refuse("tokens_per_minute", "tokens per minute", wait);
}

void KeyMeters::Use::Charge(uint64_t n_tokens, absl::Time now) {
  if (meter_ != nullptr) meter_->tokens.Take(n_tokens, now);
}

}  // namespace longshelf::router
