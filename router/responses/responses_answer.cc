#include "responses_answer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/ids.h"
#include "json_dump.h"
#include "router/api_json.h"
#include "sse.h"

namespace longshelf::router {
namespace {

using Json = nlohmann::ordered_json;

std::string Quoted(std::string_view text) { return DumpJson(Json(std::string(text))); }

Json UsageJson(const Usage& usage) {
  return {{"input_tokens", usage.n_prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.n_cached_tokens}}},
          {"output_tokens", usage.n_completion_tokens},
          {"output_tokens_details", {{"reasoning_tokens", usage.n_reasoning_tokens}}},
          {"total_tokens", uint64_t{usage.n_prompt_tokens} + usage.n_completion_tokens}};
}

}  // namespace

ResponseAnswer::ResponseAnswer(const ServedModel& model, ResponseHead head, bool is_stream)
    : model_(model), head_(std::move(head)), is_stream_(is_stream) {}

std::string ResponseAnswer::Event(std::string_view type, std::string_view members) {
  if (!is_stream_) return "";
  const absl::string_view type_text(type.data(), type.size());
  return NamedEvent(type, absl::StrCat("{\"type\":\"", type_text, "\",\"sequence_number\":", n_events_++,
                                       absl::string_view(members.data(), members.size()), "}"));
}

std::string ResponseAnswer::Place() const {
  return absl::StrCat(",\"item_id\":", Quoted(item_id_), ",\"output_index\":", n_items_);
}

std::string ResponseAnswer::LogprobsJson() const {
  return head_.logprobs ? TokenLogprobsJson(model_, logprobs_) : "[]";
}

std::string ResponseAnswer::PartJson() const {
  if (block_.kind == BlockKind::kReasoning) return DumpJson({{"type", "reasoning_text"}, {"text", text_}});
  return absl::StrCat("{\"type\":\"output_text\",\"annotations\":[],\"text\":", Quoted(text_),
                      ",\"logprobs\":", LogprobsJson(), "}");
}

std::string ResponseAnswer::ItemJson(std::string_view status) const {
  const Json id = item_id_;
  const std::string parts = status == "in_progress" ? "" : PartJson();
  const absl::string_view status_text(status.data(), status.size());
  switch (block_.kind) {
    case BlockKind::kReasoning:
      return absl::StrCat("{\"id\":", id.dump(), R"(,"type":"reasoning","status":")", status_text,
                          R"(","summary":[],"content":[)", parts, "],\"encrypted_content\":null}");
    case BlockKind::kText:
      return absl::StrCat("{\"id\":", id.dump(), R"(,"type":"message","status":")", status_text,
                          R"(","role":"assistant","content":[)", parts, "]}");
    case BlockKind::kCall:
      break;
  }
  return DumpJson({{"id", item_id_},
                   {"type", "function_call"},
                   {"status", status},
                   {"call_id", block_.call_id},
                   {"name", block_.name},
                   {"arguments", text_}});
}

std::string ResponseAnswer::ResponseJson(std::string_view status, const ResponseEnd& end) const {
  std::string out = DumpJson({{"id", head_.id},
                              {"object", "response"},
                              {"created_at", head_.created_unix_s},
                              {"status", status},
                              {"background", false},
                              {"model", head_.model},
                              {"previous_response_id", nullptr},
                              {"service_tier", "default"},
                              {"store", false},
                              {"truncation", "disabled"},
                              {"error", end.error},
                              {"incomplete_details", end.incomplete_details},
                              {"usage", end.usage}});
  out.pop_back();
  return absl::StrCat(out, head_.echo_members, ",\"output\":[", output_, "]}");
}

std::string ResponseAnswer::Opening() {
  const std::string response = absl::StrCat(",\"response\":", ResponseJson("in_progress", {}));
  const std::string created = Event("response.created", response);
  return created + Event("response.in_progress", response);
}

std::string ResponseAnswer::Delta(uint32_t choice, const ChoiceDelta& delta) {
  for (const TokenLogprobs& entry : delta.logprobs) {
    if (!entry.in_reasoning) fresh_.push_back(entry);
  }
  return BlockAnswer::Delta(choice, delta);
}

std::string ResponseAnswer::BeginBlock(const Block& block) {
  block_ = block;
  text_.clear();
  logprobs_.clear();
  const std::string_view prefix = block.kind == BlockKind::kText        ? "msg_"
                                  : block.kind == BlockKind::kReasoning ? "rs_"
                                                                        : "fc_";
  item_id_ = block.kind == BlockKind::kCall ? WithPrefix(prefix, block.call_id)
                                            : absl::StrCat(std::string(prefix), RandomId());
  std::string out = Event("response.output_item.added",
                          absl::StrCat(",\"output_index\":", n_items_, ",\"item\":", ItemJson("in_progress")));
  if (block.kind == BlockKind::kCall) return out;
  return out +
         Event("response.content_part.added", absl::StrCat(Place(), ",\"content_index\":0,\"part\":", PartJson()));
}

std::string ResponseAnswer::AddToBlock(std::string_view text) {
  text_ += text;
  const std::string delta = absl::StrCat(",\"delta\":", Quoted(text));
  switch (block_.kind) {
    case BlockKind::kReasoning:
      return Event("response.reasoning_text.delta", absl::StrCat(Place(), ",\"content_index\":0", delta));
    case BlockKind::kCall:
      return Event("response.function_call_arguments.delta", absl::StrCat(Place(), delta));
    case BlockKind::kText:
      break;
  }
  const std::vector<TokenLogprobs> fresh = std::exchange(fresh_, {});
  logprobs_.insert(logprobs_.end(), fresh.begin(), fresh.end());
  const std::string logprobs = head_.logprobs ? TokenLogprobsJson(model_, fresh) : "[]";
  return Event("response.output_text.delta",
               absl::StrCat(Place(), ",\"content_index\":0", delta, ",\"logprobs\":", logprobs));
}

std::string ResponseAnswer::EndBlock(bool is_complete) {
  std::string out;
  switch (block_.kind) {
    case BlockKind::kReasoning:
      out =
          Event("response.reasoning_text.done", absl::StrCat(Place(), ",\"content_index\":0,\"text\":", Quoted(text_)));
      break;
    case BlockKind::kCall:
      out = Event("response.function_call_arguments.done",
                  absl::StrCat(Place(), ",\"name\":", Quoted(block_.name), ",\"arguments\":", Quoted(text_)));
      break;
    case BlockKind::kText:
      out = Event("response.output_text.done", absl::StrCat(Place(), ",\"content_index\":0,\"text\":", Quoted(text_),
                                                            ",\"logprobs\":", LogprobsJson()));
      break;
  }
  if (block_.kind != BlockKind::kCall) {
    out += Event("response.content_part.done", absl::StrCat(Place(), ",\"content_index\":0,\"part\":", PartJson()));
  }
  const std::string item = ItemJson(is_complete ? "completed" : "incomplete");
  out += Event("response.output_item.done", absl::StrCat(",\"output_index\":", n_items_, ",\"item\":", item));
  absl::StrAppend(&output_, n_items_ > 0 ? "," : "", item);
  ++n_items_;
  return out;
}

std::string ResponseAnswer::Finished(uint32_t, const ChoiceEnd& end) {
  finish_reason_ = std::string(end.finish_reason);
  return EndLastBlock(end.finish_reason);
}

std::string ResponseAnswer::Done(const Usage& usage) {
  const bool is_incomplete = finish_reason_ == "length";
  ResponseEnd end = {.usage = UsageJson(usage)};
  if (is_incomplete) end.incomplete_details = {{"reason", "max_output_tokens"}};
  const std::string response = ResponseJson(is_incomplete ? "incomplete" : "completed", end);
  if (!is_stream_) return response;
  return Event(is_incomplete ? "response.incomplete" : "response.completed", absl::StrCat(",\"response\":", response));
}

std::string ResponseAnswer::Error(const ApiError& error) {
  if (!is_stream_) return ErrorBody(error);
  const std::string code = error.code.empty() ? "server_error" : error.code;
  const ResponseEnd end = {.error = {{"code", code}, {"message", error.message}}};
  return Event("response.failed", absl::StrCat(",\"response\":", ResponseJson("failed", end)));
}

std::string ResponseAnswer::Progress(const PrefillProgress& progress) {
  return is_stream_ ? ProgressComment(progress) : "";
}

std::string ResponseAnswer::KeepAlive() { return is_stream_ ? std::string(kKeepAliveComment) : "\n"; }

}  // namespace longshelf::router
