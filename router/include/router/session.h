#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "router/byte_budget.h"
#include "router/worker_link.h"

// A session: one answer, complete or not, and all that is needed to go on with it on any router and any worker.
namespace longshelf::router {

// What is known of its state in the KV store.
struct ParkedKv {
  ParkedState state;
  uint32_t block_tokens = 0;
  std::vector<std::string> trail;  // keys of the first kTrailStep full blocks, and of every kTrailStep-th
};
inline constexpr uint32_t kTrailStep = 16;

struct Session {
  std::string id;
  std::string model;
  bool is_chat = true;
  std::shared_ptr<const std::string> body;  // the request's JSON
  std::shared_ptr<const std::vector<uint32_t>> prompt;
  std::vector<uint32_t> output;
  uint64_t seed = 0;
  std::string request_id;
  std::string namespace_id;
  std::string fingerprint;                      // of the model that answers; "" = not known
  std::string finish_reason;                    // "" = the answer is not complete
  absl::Time created;                           // wall clock
  absl::Time stands_on;                         // wall clock: what was parked up to then is older
  absl::Time answer_at = absl::InfinitePast();  // as its card has it; never: it was not parked yet
  ByteBudget::Share share;                      // of what may be kept, while it is not idle

  uint64_t n_bytes() const;
};

// What a session's owner is told of it.
struct SessionInfo {
  std::string id;
  std::string model;
  absl::Time created;
  absl::Time parked_at = absl::InfinitePast();  // never
  absl::Time answer_at = absl::InfinitePast();  // parked_at of the answer's first card: later ones only keep it longer
  absl::Time retain_until = absl::InfinitePast();
  uint32_t n_prompt_tokens = 0;
  uint32_t n_output_tokens = 0;
  std::string finish_reason;
  bool is_running = false;
  bool is_deleted = false;  // and this says so, as long as a copy of an earlier card might be left somewhere
  Durability durability = Durability::kMemory;
  std::string fingerprint;
  std::optional<ParkedKv> kv;  // none: resuming computes it again
  std::string kv_missing;      // why, right after parking
  std::string body_key;        // 32 bytes
  uint64_t body_bytes = 0;
};

// To the bytes of the store (session.proto) and back. DATA_LOSS: not what ToBytes made, or of a format that this
// router does not know; everything is bounded before it is used.
std::string CardToBytes(const SessionInfo& info);
absl::StatusOr<SessionInfo> CardFromBytes(const std::string& bytes);
std::string BodyToBytes(const Session& session);
// Without what the card has: id, model, times, finish reason.
absl::StatusOr<Session> BodyFromBytes(const std::string& bytes, uint32_t vocab_size);

}  // namespace longshelf::router
