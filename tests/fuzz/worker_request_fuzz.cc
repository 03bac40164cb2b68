// What a router asks of a worker. A request that is accepted is within the worker's limits, with no token that the
// model does not have, and the engine takes it.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "common/check.h"
#include "convert_service.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "grammar/output_spec.h"
#include "request_check.h"

namespace longshelf::worker {
namespace {

constexpr RequestLimits kLimits = {.vocab_size = 1000, .n_context_max = 64, .allow_logits = false};
constexpr absl::Duration kRetentionMax = absl::Hours(24 * 366);

class NoEvents final : public engine::EventSink {
 public:
  void OnEvent(engine::SequenceEvent) override {}
};

bool AreTokens(const std::vector<uint32_t>& tokens) {
  return std::ranges::all_of(tokens, [](uint32_t token) { return token < kLimits.vocab_size; });
}

bool IsSalt(const std::string& salt) { return salt.empty() || salt.size() == 32; }

void Generate(const v1::WorkerGenerateRequest& wire) {
  const absl::Status status = CheckGenerate(wire, kLimits);
  if (!status.ok()) {
    LONGSHELF_CHECK(status.code() == absl::StatusCode::kInvalidArgument ||
                    (wire.return_logits() && status.code() == absl::StatusCode::kPermissionDenied));
    return;
  }
  engine::SequenceRequest request = ToSequenceRequest(wire);
  if (const auto spec = ToOutputSpec(wire); spec.ok() && !spec->empty()) {
    const auto parsed = grammar::OutputSpec::Parse(*spec);
    LONGSHELF_CHECK(parsed.ok() && parsed->answer_schema == wire.output_form().answer_schema());
    LONGSHELF_CHECK(parsed->tools.size() == static_cast<size_t>(wire.output_form().tools_size()));
  }
  LONGSHELF_CHECK(std::ranges::equal(request.prompt, wire.prompt_tokens()) && AreTokens(request.prompt));
  LONGSHELF_CHECK(std::ranges::equal(request.committed, wire.committed_tokens()) && AreTokens(request.committed));
  LONGSHELF_CHECK(AreTokens(request.stop_token_ids) && request.stop_token_ids.size() <= 64);
  LONGSHELF_CHECK(request.prompt.size() + request.committed.size() < static_cast<size_t>(kLimits.n_context_max));
  LONGSHELF_CHECK(request.committed.size() < std::max(1U, request.max_tokens) && !request.return_logits);
  LONGSHELF_CHECK(request.namespace_id.size() <= 64 && IsSalt(request.namespace_salt));
  request.sink = std::make_shared<NoEvents>();
  engine::EngineConfig config;
  config.n_context_max = kLimits.n_context_max;
  config.vocab_size = kLimits.vocab_size;
  engine::GroupShape shape;
  shape.n_blocks_per_shard = 1;
  LONGSHELF_CHECK(engine::CheckRequest(request, config, shape).ok());
}

void Park(const v1::ParkRequest& wire) {
  const absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  const absl::StatusOr<ParkCommand> command = ToParkCommand(wire, kLimits, now);
  if (!command.ok()) {
    LONGSHELF_CHECK(command.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  LONGSHELF_CHECK(std::ranges::equal(command->tokens, wire.tokens()) && AreTokens(command->tokens));
  LONGSHELF_CHECK(!command->tokens.empty() && command->tokens.size() <= static_cast<size_t>(kLimits.n_context_max));
  LONGSHELF_CHECK(command->retain_until >= now && command->retain_until <= now + kRetentionMax);
  LONGSHELF_CHECK(command->namespace_id.size() <= 64 && IsSalt(command->namespace_salt));
  LONGSHELF_CHECK(kvstore::IsDurable(command->ack) == (wire.durability() >= v1::PARK_DURABILITY_DISK));
}

v1::WorkerGenerateRequest GenerateSeed() {
  v1::WorkerGenerateRequest wire;
  wire.set_request_id("r-1");
  for (uint32_t token = 0; token < 20; ++token) wire.add_prompt_tokens(token * 50);
  wire.add_committed_tokens(7);
  wire.set_max_tokens(30);
  wire.mutable_sampling()->set_temperature(0.5);
  wire.mutable_sampling()->set_top_p(0.25);
  wire.mutable_sampling()->set_top_k(5);
  wire.mutable_sampling()->set_presence_penalty(-1.5);
  wire.mutable_sampling()->set_logprobs(true);
  wire.mutable_sampling()->set_n_top_logprobs(3);
  for (const uint32_t token : {3U, 700U}) {
    v1::TokenBias& entry = *wire.mutable_sampling()->add_logit_bias();
    entry.set_token(token);
    entry.set_bias(-1.5F);
  }
  wire.set_prompt_logprobs(true);
  wire.set_n_prompt_scored(40);
  wire.add_stop_token_ids(1);
  wire.set_namespace_id("ns");
  wire.set_namespace_salt(std::string(32, 's'));
  wire.set_tenant("t");
  wire.set_tier(v1::SERVICE_TIER_FLEX);
  return wire;
}

v1::ParkRequest ParkSeed() {
  v1::ParkRequest wire;
  for (uint32_t token = 0; token < 20; ++token) wire.add_tokens(token * 50);
  wire.set_namespace_id("ns");
  wire.set_retain_until_unix_ms(1'700'000'100'000);
  wire.set_durability(v1::PARK_DURABILITY_DISK);
  return wire;
}

template <typename Message>
Message Parsed(std::string_view bytes) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) message.Clear();
  return message;
}

}  // namespace
}  // namespace longshelf::worker

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  return {.inputs = {'\0' + worker::GenerateSeed().SerializeAsString(), '\1' + worker::ParkSeed().SerializeAsString()},
          .words = {std::string("\0\0\0\0\0\0\xf8\x7f", 8), std::string("\0\0\0\0\0\0\xf0\xff", 8),
                    std::string("\0\0\0\0\0\0\x00\x80", 8), std::string("\x52\x00", 2), std::string("\x58\x01", 2)}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  if (input.Byte() % 2 == 0) {
    worker::Generate(worker::Parsed<v1::WorkerGenerateRequest>(input.Rest()));
  } else {
    worker::Park(worker::Parsed<v1::ParkRequest>(input.Rest()));
  }
  return 0;
}
