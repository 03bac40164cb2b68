#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/events.h"
#include "engine/observer.h"
#include "engine/request.h"
#include "longshelf/v1/worker.pb.h"
#include "worker/prefix_source.h"
#include "worker/watch_hub.h"

// Between wire messages and the engine's values. Everything from the wire is checked here, before it is copied.
namespace longshelf::worker {

struct RequestLimits {
  uint32_t vocab_size = 0;
  int64_t n_context_max = 0;
  bool allow_logits = false;
};

// INVALID_ARGUMENT: names the field, its value and the limit. PERMISSION_DENIED: return_logits where it is not allowed.
absl::Status CheckGenerate(const v1::WorkerGenerateRequest& request, const RequestLimits& limits);
// "" when the request has none. INVALID_ARGUMENT: more than the limits; nothing is compiled.
absl::StatusOr<std::string> ToOutputSpec(const v1::WorkerGenerateRequest& request);
// REQUIRES: CheckGenerate said OK. Without id, sink, restored prefix and output form.
engine::SequenceRequest ToSequenceRequest(const v1::WorkerGenerateRequest& request);

// INVALID_ARGUMENT as above; `now` is the wall clock.
absl::StatusOr<ParkCommand> ToParkCommand(const v1::ParkRequest& request, const RequestLimits& limits, absl::Time now);

// REQUIRES: not Failed, which is a status and not an event.
v1::WorkerGenerateEvent ToProto(uint32_t epoch, const engine::SequenceEvent& event);
v1::WorkerLoad ToProto(const engine::Load& load, uint32_t n_sequences_max);
v1::WatchEvent ToProto(const WatchUpdate& update, uint64_t generation, uint32_t n_sequences_max);

}  // namespace longshelf::worker
