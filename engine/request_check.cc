#include "request_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "engine/model/kv_layout.h"
#include "grammar/output_spec.h"
#include "sampler.h"
#include "sequence.h"

namespace longshelf::engine {
namespace {

constexpr size_t kStopTokenIdsMax = 256;

absl::Status CheckTokens(absl::string_view field, const std::vector<uint32_t>& tokens, uint32_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, "[", i, "] is ", tokens[i], "; the vocabulary has ", vocab_size, " tokens"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const SequenceRequest& request, const EngineConfig& config, const GroupShape& shape) {
  if (request.sink == nullptr) return absl::InvalidArgumentError("sink is missing");
  if (request.prompt.empty()) return absl::InvalidArgumentError("prompt is empty; give at least one token");
  const auto n_context_max = static_cast<uint64_t>(config.n_context_max);
  if (request.prompt.size() >= n_context_max) {
    return absl::InvalidArgumentError(absl::StrCat("prompt has ", request.prompt.size(), " tokens; the context holds ",
                                                   n_context_max, " with at least one of output; shorten it"));
  }
  if (request.prompt.size() + request.committed.size() > n_context_max) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and committed have ",
                                                   request.prompt.size() + request.committed.size(),
                                                   " tokens; the context holds ", n_context_max));
  }
  if (request.committed.size() > request.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("committed has ", request.committed.size(),
                                                   " tokens, more than max_tokens, ", request.max_tokens));
  }
  if (request.wants_prompt_scores() && !request.committed.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("committed has ", request.committed.size(),
                                                   " tokens, but n_prompt_scored is only ", request.n_prompt_scored,
                                                   ": no token comes before the prompt's logprobs have been told"));
  }
  RETURN_IF_ERROR(CheckTokens("prompt", request.prompt, config.vocab_size));
  RETURN_IF_ERROR(CheckTokens("committed", request.committed, config.vocab_size));
  if (request.stop_token_ids.size() > kStopTokenIdsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop_token_ids has ", request.stop_token_ids.size(), " entries; at most ", kStopTokenIdsMax));
  }
  if (request.output_spec.size() > grammar::kSpecBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("output_spec has ", request.output_spec.size(), " bytes; at most ", grammar::kSpecBytesMax));
  }
  if (request.end_token_ids.size() > kStopTokenIdsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("end_token_ids has ", request.end_token_ids.size(), " entries; at most ", kStopTokenIdsMax));
  }
  RETURN_IF_ERROR(CheckTokens("end_token_ids", request.end_token_ids, config.vocab_size));
  RETURN_IF_ERROR(CheckSamplingParams(request.sampling, config.vocab_size));
  const uint64_t n_output_max = std::max<uint64_t>(1, request.max_tokens);
  const uint64_t n_tokens_max = std::min<uint64_t>(request.prompt.size() + n_output_max, n_context_max);
  const int64_t n_blocks = BlocksFor(static_cast<int64_t>(n_tokens_max) - 1);
  if (n_blocks > shape.n_blocks_per_shard) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_tokens need ", n_blocks, " KV blocks of ",
                                                   kBlockTokens, " tokens; a shard has ", shape.n_blocks_per_shard,
                                                   "; lower max_tokens or shorten the prompt"));
  }
  return absl::OkStatus();
}

absl::Status CheckEngineConfig(const EngineConfig& config, const GroupShape& shape) {
  const auto check = [](absl::string_view field, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must lie in ", low, " to ", high));
  };
  constexpr int64_t kTokensMax = int64_t{1} << 31;
  RETURN_IF_ERROR(check("n_context_max", config.n_context_max, 2, kTokensMax));
  RETURN_IF_ERROR(check("step_token_budget", config.step_token_budget, 1, kTokensMax));
  RETURN_IF_ERROR(check("n_sequences_max", config.n_sequences_max, 1, kTokensMax));
  RETURN_IF_ERROR(check("n_waiting_max", config.n_waiting_max, 1, kTokensMax));
  RETURN_IF_ERROR(check("admission_headroom_tokens", config.admission_headroom_tokens, 0, kTokensMax));
  RETURN_IF_ERROR(check("vocab_size", config.vocab_size, 1, kTokensMax));
  RETURN_IF_ERROR(check("n_shards", shape.n_shards, 1, 1 << 15));
  RETURN_IF_ERROR(check("n_slots_per_shard", shape.n_slots_per_shard, 1, 1 << 16));
  RETURN_IF_ERROR(check("n_blocks_per_shard", shape.n_blocks_per_shard, 1, kTokensMax));
  RETURN_IF_ERROR(check("checkpoint_interval_tokens", config.checkpoint_interval_tokens, kBlockTokens, kTokensMax));
  if (config.checkpoint_interval_tokens % kBlockTokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoint_interval_tokens is ", config.checkpoint_interval_tokens,
                                                   "; it must be a multiple of the block size, ", kBlockTokens));
  }
  return absl::OkStatus();
}

}  // namespace longshelf::engine
