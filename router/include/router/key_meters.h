#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <variant>

#include "absl/time/time.h"
#include "router/api_error.h"
#include "router/api_key.h"
#include "router/metrics.h"

namespace longshelf::router {

// Fills steadily up to what one minute brings, and may be overdrawn: what cannot be known before is taken after.
class MinuteBucket {
 public:
  explicit MinuteBucket(uint64_t per_minute) : per_minute_(static_cast<double>(per_minute)), level_(per_minute_) {}
  // Until so much can be taken; more than a minute's worth can when the bucket is full. Zero where there is no limit.
  absl::Duration TimeUntil(uint64_t n, absl::Time now);
  void Take(uint64_t n, absl::Time now);

 private:
  void Fill(absl::Time now);

  double per_minute_;  // 0: no limit
  double level_;
  absl::Time filled_at_ = absl::InfinitePast();
};

// What keys with limits use. Owner: the router loop.
class KeyMeters {
  struct Meter;

 public:
  // A request of a key, from its beginning to its end.
  class Use {
   public:
    Use() = default;
    Use(Use&& other) noexcept : owner_(other.owner_), meter_(std::exchange(other.meter_, nullptr)) {}
    Use& operator=(Use&& other) noexcept {
      std::swap(owner_, other.owner_);
      std::swap(meter_, other.meter_);
      return *this;
    }
    ~Use();
    // Whether a prompt of so many tokens may be computed now.
    std::optional<ApiError> CheckPrompt(uint64_t n_tokens, absl::Time now);
    void Charge(uint64_t n_tokens, absl::Time now);

   private:
    friend class KeyMeters;
    KeyMeters* owner_ = nullptr;
    Meter* meter_ = nullptr;  // null: without limits
  };

  // `metrics` must outlive this, and this every Use.
  explicit KeyMeters(RouterMetrics& metrics);
  ~KeyMeters();
  // 429 says which limit the request is over, and when to come back; nothing is counted then. `key` may be null.
  std::variant<Use, ApiError> Begin(const std::shared_ptr<const ApiKey>& key, absl::Time now);

 private:
  ApiError Refuse(const char* limit, const char* excess, absl::Duration wait);

  RouterMetrics& metrics_;
  std::unordered_map<const ApiKey*, std::unique_ptr<Meter>> meters_;  // as many as there are keys in the file
};

}  // namespace longshelf::router
