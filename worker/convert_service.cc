#include "convert_service.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status.h"
#include "grammar/output_spec.h"

namespace longshelf::worker {
namespace {

constexpr size_t kRequestIdBytesMax = 128;
constexpr size_t kNamespaceBytesMax = 64;
constexpr size_t kSaltBytes = 32;
constexpr size_t kTenantBytesMax = 256;
constexpr int kStopTokensMax = 64;
constexpr uint32_t kTopLogprobsMax = 20;
constexpr uint64_t kLogitBiasMax = 1024;
constexpr double kBiasMax = 100;
// A router lets clients ask for 366 days, by its own clock, which may be ahead of this one.
constexpr absl::Duration kRetentionMax = absl::Hours(24 * 366 + 1);

absl::Status CheckNumber(const char* field, double value, double min, double max) {
  if (std::isfinite(value) && value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be between ", min, " and ", max));
}

absl::Status CheckCount(const char* field, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be between ", min, " and ", max));
}

absl::Status CheckBytes(const char* field, size_t n_bytes, size_t max) {
  if (n_bytes <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " has ", n_bytes, " bytes; the limit is ", max));
}

template <typename Tokens>
absl::Status CheckTokens(const char* field, const Tokens& tokens, uint32_t vocab_size) {
  for (int i = 0; i < tokens.size(); ++i) {
    if (tokens.Get(i) >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(field, "[", i, "] is ", tokens.Get(i),
                                                     "; token ids must be below the vocabulary size ", vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNamespace(const std::string& id, const std::string& salt) {
  RETURN_IF_ERROR(CheckBytes("namespace_id", id.size(), kNamespaceBytesMax));
  if (salt.empty() || salt.size() == kSaltBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("namespace_salt has ", salt.size(), " bytes; it must have ", kSaltBytes, " (or none)"));
}

absl::Status CheckLogitBias(const v1::SamplingParams& sampling, uint32_t vocab_size) {
  RETURN_IF_ERROR(CheckCount("the number of sampling.logit_bias entries",
                             static_cast<uint64_t>(sampling.logit_bias_size()), 0, kLogitBiasMax));
  uint64_t least = 0;  // that the next token may be: they ascend
  for (const v1::TokenBias& entry : sampling.logit_bias()) {
    RETURN_IF_ERROR(CheckCount("sampling.logit_bias.token", entry.token(), least, vocab_size - 1));
    RETURN_IF_ERROR(CheckNumber("sampling.logit_bias.bias", entry.bias(), -kBiasMax, kBiasMax));
    least = uint64_t{entry.token()} + 1;
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const v1::SamplingParams& sampling, uint32_t vocab_size) {
  RETURN_IF_ERROR(CheckNumber("sampling.temperature", sampling.temperature(), 0, 2));
  RETURN_IF_ERROR(CheckNumber("sampling.top_p", sampling.top_p(), 0, 1));
  RETURN_IF_ERROR(CheckCount("sampling.top_k", sampling.top_k(), 0, vocab_size));
  RETURN_IF_ERROR(CheckNumber("sampling.min_p", sampling.min_p(), 0, 1));
  RETURN_IF_ERROR(CheckNumber("sampling.presence_penalty", sampling.presence_penalty(), -2, 2));
  RETURN_IF_ERROR(CheckNumber("sampling.frequency_penalty", sampling.frequency_penalty(), -2, 2));
  RETURN_IF_ERROR(CheckLogitBias(sampling, vocab_size));
  return CheckCount("sampling.n_top_logprobs", sampling.n_top_logprobs(), 0, std::min(kTopLogprobsMax, vocab_size));
}

// One that a newer router may know counts as the default.
engine::ServiceTier ToTier(v1::ServiceTier tier) {
  switch (tier) {
    case v1::SERVICE_TIER_FLEX:
      return engine::ServiceTier::kFlex;
    case v1::SERVICE_TIER_PRIORITY:
      return engine::ServiceTier::kPriority;
    default:
      return engine::ServiceTier::kDefault;
  }
}

engine::SamplingParams ToSamplingParams(const v1::SamplingParams& sampling) {
  std::vector<engine::TokenBias> logit_bias;
  for (const v1::TokenBias& entry : sampling.logit_bias()) logit_bias.push_back({entry.token(), entry.bias()});
  return {.temperature = sampling.temperature(),
          .top_p = sampling.top_p() == 0 ? 1.0 : sampling.top_p(),  // unset: off
          .top_k = sampling.top_k(),
          .min_p = sampling.min_p(),
          .seed = sampling.seed(),
          .presence_penalty = sampling.presence_penalty(),
          .frequency_penalty = sampling.frequency_penalty(),
          .logprobs = sampling.logprobs(),
          .n_top_logprobs = sampling.n_top_logprobs(),
          .logit_bias = std::move(logit_bias)};
}

}  // namespace

absl::Status CheckGenerate(const v1::WorkerGenerateRequest& request, const RequestLimits& limits) {
  RETURN_IF_ERROR(CheckBytes("request_id", request.request_id().size(), kRequestIdBytesMax));
  const auto n_context = static_cast<uint64_t>(limits.n_context_max);
  // One position is left for the token to come.
  RETURN_IF_ERROR(
      CheckCount("the number of prompt_tokens", static_cast<uint64_t>(request.prompt_tokens_size()), 1, n_context - 1));
  RETURN_IF_ERROR(CheckCount("max_tokens", request.max_tokens(), 0, n_context));
  RETURN_IF_ERROR(CheckCount("the number of committed_tokens", static_cast<uint64_t>(request.committed_tokens_size()),
                             0, std::max<uint64_t>(1, request.max_tokens()) - 1));
  const auto n_given =
      static_cast<uint64_t>(request.prompt_tokens_size()) + static_cast<uint64_t>(request.committed_tokens_size());
  RETURN_IF_ERROR(CheckCount("prompt_tokens plus committed_tokens", n_given, 1, n_context - 1));
  RETURN_IF_ERROR(CheckCount("the number of stop_token_ids", static_cast<uint64_t>(request.stop_token_ids_size()), 0,
                             kStopTokensMax));
  if (request.prompt_logprobs() && request.committed_tokens_size() > 0) {
    RETURN_IF_ERROR(CheckCount("n_prompt_scored, with committed_tokens,", request.n_prompt_scored(),
                               static_cast<uint64_t>(request.prompt_tokens_size()), n_context));
  }
  RETURN_IF_ERROR(CheckTokens("prompt_tokens", request.prompt_tokens(), limits.vocab_size));
  RETURN_IF_ERROR(CheckTokens("committed_tokens", request.committed_tokens(), limits.vocab_size));
  RETURN_IF_ERROR(CheckTokens("stop_token_ids", request.stop_token_ids(), limits.vocab_size));
  RETURN_IF_ERROR(CheckSampling(request.sampling(), limits.vocab_size));
  RETURN_IF_ERROR(CheckNamespace(request.namespace_id(), request.namespace_salt()));
  RETURN_IF_ERROR(CheckBytes("tenant", request.tenant().size(), kTenantBytesMax));
  if (request.return_logits() && !limits.allow_logits) {
    return absl::PermissionDeniedError("return_logits is refused; this worker runs without --allow-logits");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ToOutputSpec(const v1::WorkerGenerateRequest& request) {
  if (!request.has_output_form()) return std::string();
  const v1::OutputForm& form = request.output_form();
  RETURN_IF_ERROR(CheckBytes("output_form", form.ByteSizeLong(), grammar::kSpecBytesMax));
  RETURN_IF_ERROR(
      CheckCount("the number of output_form.tools", static_cast<uint64_t>(form.tools_size()), 0, grammar::kToolsMax));
  RETURN_IF_ERROR(CheckCount("output_form.n_calls_max", form.n_calls_max(), 0, grammar::kCallsMax));
  grammar::OutputSpec spec;
  spec.after_thinking = form.after_thinking();
  spec.answer_schema = form.answer_schema();
  switch (form.calls()) {
    case v1::OutputForm::CALLS_NONE:
      break;
    case v1::OutputForm::CALLS_ALLOWED:
      spec.calls = grammar::OutputSpec::Calls::kAllowed;
      break;
    case v1::OutputForm::CALLS_REQUIRED:
      spec.calls = grammar::OutputSpec::Calls::kRequired;
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat("output_form.calls: ", form.calls(), " is unknown"));
  }
  if (form.n_calls_max() > 0) spec.n_calls_max = form.n_calls_max();
  for (const v1::ToolForm& tool : form.tools()) spec.tools.push_back({tool.name(), tool.parameters()});
  spec.given = form.given();
  return spec.Serialize();
}

engine::SequenceRequest ToSequenceRequest(const v1::WorkerGenerateRequest& request) {
  engine::SequenceRequest out;
  out.prompt.assign(request.prompt_tokens().begin(), request.prompt_tokens().end());
  out.committed.assign(request.committed_tokens().begin(), request.committed_tokens().end());
  out.max_tokens = request.max_tokens();
  out.stop_token_ids.assign(request.stop_token_ids().begin(), request.stop_token_ids().end());
  out.tenant = request.tenant();
  out.tier = ToTier(request.tier());
  out.namespace_id = request.namespace_id();
  out.namespace_salt = request.namespace_salt();
  out.return_logits = request.return_logits();
  out.no_cache_read = request.no_cache_read();
  out.prompt_logprobs = request.prompt_logprobs();
  out.n_prompt_scored = request.n_prompt_scored();
  out.sampling = ToSamplingParams(request.sampling());
  return out;
}

absl::StatusOr<ParkCommand> ToParkCommand(const v1::ParkRequest& request, const RequestLimits& limits, absl::Time now) {
  RETURN_IF_ERROR(CheckCount("the number of tokens", static_cast<uint64_t>(request.tokens_size()), 1,
                             static_cast<uint64_t>(limits.n_context_max)));
  RETURN_IF_ERROR(CheckTokens("tokens", request.tokens(), limits.vocab_size));
  RETURN_IF_ERROR(CheckNamespace(request.namespace_id(), request.namespace_salt()));
  const int64_t now_ms = absl::ToUnixMillis(now);
  RETURN_IF_ERROR(CheckCount("retain_until_unix_ms", request.retain_until_unix_ms(), static_cast<uint64_t>(now_ms),
                             static_cast<uint64_t>(absl::ToUnixMillis(now + kRetentionMax))));
  ParkCommand command;
  switch (request.durability()) {
    case v1::PARK_DURABILITY_UNSPECIFIED:
    case v1::PARK_DURABILITY_MEMORY:
      command.ack = kvstore::Ack::kMemoryAll;
      break;
    case v1::PARK_DURABILITY_DISK:
      command.ack = kvstore::Ack::kDurableOne;
      break;
    case v1::PARK_DURABILITY_DISK_ALL:
      command.ack = kvstore::Ack::kDurableAll;
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat("durability: ", request.durability(), " is unknown"));
  }
  command.tokens.assign(request.tokens().begin(), request.tokens().end());
  command.namespace_id = request.namespace_id();
  command.namespace_salt = request.namespace_salt();
  command.retain_until = absl::FromUnixMillis(static_cast<int64_t>(request.retain_until_unix_ms()));
  return command;
}

namespace {

void Fill(const engine::Started& from, v1::WorkerGenerateEvent& event) {
  v1::Started& to = *event.mutable_started();
  to.set_n_prompt_tokens(from.n_prompt_tokens);
  to.set_n_cached_local(from.n_cached_local);
  to.set_n_cached_store(from.n_cached_store);
  to.set_miss_reason(from.miss_reason);
}

void Fill(const engine::PrefillProgress& from, v1::WorkerGenerateEvent& event) {
  event.mutable_progress()->set_n_done(from.n_done);
  event.mutable_progress()->set_n_total(from.n_total);
}

// A sampled token or a scored one.
template <typename From, typename To>
void FillLogprobs(const From& from, To& to) {
  to.set_token(from.token);
  to.set_logprob(from.logprob);
  for (const engine::TokenLogprob& alternative : from.top) {
    v1::TokenLogprob& top = *to.add_top();
    top.set_token(alternative.token);
    top.set_logprob(alternative.logprob);
  }
}

void Fill(const engine::PromptLogprobs& from, v1::WorkerGenerateEvent& event) {
  v1::PromptLogprobs& to = *event.mutable_prompt_logprobs();
  to.set_first(from.first);
  for (const engine::ScoredToken& scored : from.tokens) FillLogprobs(scored, *to.add_tokens());
}

void Fill(const engine::OutputToken& from, v1::WorkerGenerateEvent& event) {
  v1::Token& to = *event.mutable_token();
  to.set_index(from.index);
  FillLogprobs(from.token, to);
  if (!from.token.logits.empty()) {
    to.set_logits(from.token.logits.data(), from.token.logits.size() * sizeof(float));
  }
}

void Fill(const engine::Finished& from, v1::WorkerGenerateEvent& event) {
  v1::Finished& to = *event.mutable_finished();
  to.set_n_output_tokens(from.n_output_tokens);
  to.set_n_drafts_accepted(from.n_drafts_accepted);
  to.set_n_drafts_rejected(from.n_drafts_rejected);
  switch (from.reason) {
    case engine::FinishReason::kStop:
      to.set_reason(v1::Finished::REASON_STOP);
      break;
    case engine::FinishReason::kLength:
      to.set_reason(v1::Finished::REASON_LENGTH);
      break;
    case engine::FinishReason::kCancelled:
      to.set_reason(v1::Finished::REASON_CANCELLED);
      break;
  }
}

void Fill(const engine::Failed&, v1::WorkerGenerateEvent&) { LONGSHELF_CHECK(false); }

std::string KeyBytes(const engine::PrefixKey& key) { return {key.begin(), key.end()}; }

}  // namespace

v1::WorkerGenerateEvent ToProto(uint32_t epoch, const engine::SequenceEvent& event) {
  v1::WorkerGenerateEvent out;
  out.set_epoch(epoch);
  std::visit([&out](const auto& alternative) { Fill(alternative, out); }, event);
  return out;
}

v1::WorkerLoad ToProto(const engine::Load& load, uint32_t n_sequences_max) {
  v1::WorkerLoad out;
  out.set_n_running(load.n_running);
  out.set_n_waiting(load.n_waiting);
  out.set_n_tokens_queued(load.n_tokens_queued);
  out.set_n_blocks_total(load.n_blocks_total);
  out.set_n_blocks_free(load.n_blocks_free);
  out.set_n_steps(load.n_steps);
  out.set_draining(load.draining);
  out.set_n_sequences_max(n_sequences_max);
  out.set_n_prefilling(load.n_prefilling);
  if (load.prefill.seconds_per_token > 0) out.set_prefill_tokens_per_s(1.0 / load.prefill.seconds_per_token);
  out.set_n_blocks_promised(load.n_blocks_promised);
  return out;
}

v1::WatchEvent ToProto(const WatchUpdate& update, uint64_t generation, uint32_t n_sequences_max) {
  v1::WatchEvent out;
  out.set_generation(generation);
  out.set_snapshot(update.snapshot);
  *out.mutable_load() = ToProto(update.load, n_sequences_max);
  for (const engine::CachedCheckpoint& checkpoint : update.gained) {
    v1::IndexedCheckpoint& gained = *out.add_gained();
    gained.set_key(KeyBytes(checkpoint.key));
    gained.set_parent(KeyBytes(checkpoint.parent));
    gained.set_depth_tokens(static_cast<uint32_t>(checkpoint.n_tokens));
  }
  for (const engine::PrefixKey& key : update.lost) out.add_lost(KeyBytes(key));
  return out;
}

}  // namespace longshelf::worker
