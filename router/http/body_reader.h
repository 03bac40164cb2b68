#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "chunks.h"
#include "head.h"
#include "router/body_budget.h"

namespace longshelf::router {

std::string BodyTooLarge(uint64_t n_bytes_max);

// The body of one request on its way in: by its length or in chunks, within the limit of one and the budget of all.
class BodyReader {
 public:
  // What must be leased before the first byte is read: all of it, if its length was said.
  static uint64_t LeaseBytes(const RequestHead& head);
  // `lease` is of LeaseBytes. REQUIRES: the length that was said is no more than `n_bytes_max`.
  BodyReader(const RequestHead& head, uint64_t n_bytes_max, std::shared_ptr<BodyBudget::Lease> lease);

  enum class State : uint8_t { kMore, kDone, kFault };
  // Takes what belongs to the body, and says how much that was.
  State Push(std::string_view bytes, size_t& n_used);
  bool is_done() const { return is_done_; }
  const HttpFault& fault() const { return fault_; }

  const std::shared_ptr<BodyBudget::Lease>& lease() const { return lease_; }
  // With room behind it, so that a JSON parser can read it where it is.
  std::string TakeBody() { return std::move(body_); }

 private:
  bool Append(std::string_view data);

  const uint64_t n_bytes_max_;
  const std::shared_ptr<BodyBudget::Lease> lease_;
  std::optional<ChunkedDecoder> chunks_;
  uint64_t n_left_;  // without chunks
  std::string body_;
  bool is_done_;
  HttpFault fault_;
};

}  // namespace longshelf::router
