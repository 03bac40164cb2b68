// Requests as the gRPC door gets them. They are judged as JSON is: what is accepted holds what was sent, no number is
// changed or lost on the way, and what is refused is refused in words.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "inference_convert_service.h"
#include "random_text.h"

namespace longshelf::router {
namespace {

enum Kind : uint8_t { kGenerate, kChatMessages, kPark, kKinds };
const ParseLimits kLimits{kSizeLimits, 1000};

void CheckError(const ApiError& error) {
  LONGSHELF_CHECK(error.http_status == 400 && !error.message.empty());
  LONGSHELF_CHECK(tokenizer::testing::IsUtf8(error.message) && tokenizer::testing::IsUtf8(error.param));
}

void CheckOptions(const v1::GenerationOptions& options, const ApiRequest& request) {
  const Sampling& sampling = request.sampling;
  LONGSHELF_CHECK(options.has_temperature() ? sampling.temperature == options.temperature()
                                            : sampling.temperature == 1);
  LONGSHELF_CHECK(options.has_top_p() ? sampling.top_p == options.top_p() : sampling.top_p == 1);
  LONGSHELF_CHECK(options.has_min_p() ? sampling.min_p == options.min_p() : sampling.min_p == 0);
  LONGSHELF_CHECK(sampling.presence_penalty == options.presence_penalty());
  LONGSHELF_CHECK(sampling.frequency_penalty == options.frequency_penalty());
  LONGSHELF_CHECK(sampling.top_k == options.top_k() && sampling.n_top_logprobs == options.top_logprobs());
  LONGSHELF_CHECK(request.max_tokens.has_value() == options.has_max_tokens());
  LONGSHELF_CHECK(request.max_tokens.value_or(0) == options.max_tokens());
  LONGSHELF_CHECK(request.seed.has_value() == options.has_seed());
  LONGSHELF_CHECK(static_cast<uint64_t>(request.seed.value_or(0)) == options.seed());
  LONGSHELF_CHECK(std::ranges::equal(request.stop, options.stop()));
  LONGSHELF_CHECK(request.user_id == options.user_id());
  LONGSHELF_CHECK(std::ranges::equal(request.stop_token_ids, options.stop_token_ids()));
}

void CheckSession(const v1::SessionOptions& session, const ApiRequest& request) {
  LONGSHELF_CHECK(request.session == session.id());
  if (!request.park) {
    LONGSHELF_CHECK(session.retention_s() == 0);
    return;
  }
  LONGSHELF_CHECK(request.park->retention == absl::Seconds(session.retention_s()));
  LONGSHELF_CHECK(session.durability().empty() || DurabilityName(request.park->durability) == session.durability());
}

void Convert(const v1::GenerateRequest& wire) {
  const auto parsed = FromProto(wire, kLimits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return CheckError(*error);
  const auto& request = std::get<ApiRequest>(parsed);
  CheckOptions(wire.options(), request);
  CheckSession(wire.session(), request);
  LONGSHELF_CHECK(request.model == wire.model());
  if (wire.has_tokens()) {
    LONGSHELF_CHECK(std::ranges::equal(std::get<std::vector<uint32_t>>(request.prompts.at(0)), wire.tokens().ids()));
  } else {
    LONGSHELF_CHECK(std::get<std::string>(request.prompts.at(0)) == wire.text());
  }
}

void Convert(const v1::ChatRequest& wire) {
  const auto parsed = FromProto(wire, kLimits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return CheckError(*error);
  const auto& request = std::get<ApiRequest>(parsed);
  CheckOptions(wire.options(), request);
  CheckSession(wire.session(), request);
  const size_t n_sent = static_cast<size_t>(wire.messages_size());
  LONGSHELF_CHECK(request.messages.size() == n_sent || request.messages.size() == n_sent + 1);
  const size_t n_before = request.messages.size() - n_sent;  // a system message for the tools
  for (size_t i = 0; i < n_sent; ++i) {
    const v1::ChatMessage& sent = wire.messages(static_cast<int>(i));
    const tokenizer::ChatMessage& message = request.messages[n_before + i];
    LONGSHELF_CHECK(message.role == (sent.role() == "developer" ? "system" : sent.role()));
    LONGSHELF_CHECK(message.content == sent.content());
  }
}

void Convert(const v1::ParkSessionRequest& wire) {
  const auto parsed = FromProto(wire, kLimits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return CheckError(*error);
  LONGSHELF_CHECK(std::get<ParkTerms>(parsed).retention == absl::Seconds(wire.retention_s()));
}

template <typename Message>
void Parse(std::string_view bytes) {
  Message message;
  if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) Convert(message);
}

v1::GenerationOptions Options() {
  v1::GenerationOptions options;
  options.set_max_tokens(5);
  options.set_temperature(0.5);
  options.set_top_p(0.9);
  options.set_top_k(7);
  options.set_min_p(0.1);
  options.set_seed(~uint64_t{0});
  options.set_presence_penalty(1);
  options.set_frequency_penalty(-1);
  options.add_stop("é");
  options.add_stop_token_ids(3);
  options.set_top_logprobs(2);
  options.set_service_tier("flex");
  options.set_user_id("u-1");
  return options;
}

std::string Input(Kind kind, const google::protobuf::MessageLite& message) {
  return static_cast<char>(kind) + message.SerializeAsString();
}

v1::ChatRequest Chat() {
  v1::ChatRequest chat;
  chat.set_model("m");
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("é");
  v1::ChatMessage& assistant = *chat.add_messages();
  assistant.set_role("assistant");
  assistant.set_reasoning_content("r");
  v1::ToolCall& call = *assistant.add_tool_calls();
  call.set_id("c");
  call.set_name("f");
  call.set_arguments_json("{\"a\":1}");
  v1::ChatMessage& tool = *chat.add_messages();
  tool.set_role("tool");
  tool.set_content("x");
  tool.set_tool_call_id("c");
  chat.add_tools()->set_name("f");
  chat.mutable_tools(0)->set_parameters_json(R"({"type":"object","x":[1.5e3,null]})");
  *chat.mutable_options() = Options();
  chat.mutable_options()->clear_top_logprobs();
  chat.set_reasoning_effort("high");
  return chat;
}

}  // namespace
}  // namespace longshelf::router

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using namespace router;                    // all of the input is of the router
  google::protobuf::SetLogHandler(nullptr);  // it reports what it refuses
  v1::GenerateRequest text;
  text.set_text("hello");
  *text.mutable_options() = Options();
  text.mutable_session()->set_id("s-1");
  text.mutable_session()->set_retention_s(60);
  text.mutable_session()->set_durability("disk");
  v1::GenerateRequest tokens;
  tokens.mutable_tokens()->add_ids(1);
  tokens.mutable_tokens()->add_ids(999);
  v1::ParkSessionRequest park;
  park.set_id("s-1");
  park.set_retention_s(60);
  return {
      .inputs = {Input(kGenerate, text), Input(kGenerate, tokens), Input(kChatMessages, Chat()), Input(kPark, park)},
      // Numbers that are none, and words of the fields.
      .words = {std::string("\0\0\0\0\0\0\xf8\x7f", 8), std::string("\0\0\0\0\0\0\xf0\x7f", 8),
                std::string("\0\0\0\0\0\0\x00\x80", 8), "assistant", "developer", "required", "none", "é", "{\"a\":"}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  switch (input.Byte() % router::kKinds) {
    case router::kGenerate:
      router::Parse<v1::GenerateRequest>(input.Rest());
      break;
    case router::kChatMessages:
      router::Parse<v1::ChatRequest>(input.Rest());
      break;
    default:
      router::Parse<v1::ParkSessionRequest>(input.Rest());
  }
  return 0;
}
