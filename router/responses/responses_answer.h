#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block_answer.h"
#include "router/served_model.h"

// Answers as the OpenAI Responses API has them.
namespace longshelf::router {

struct ResponseHead {
  std::string id;  // "resp_..."
  std::string model;
  int64_t created_unix_s = 0;
  std::string echo_members;  // of the request: JSON members, a comma in front of each
  bool logprobs = false;
};

// What a response has once it is over; null while it is not.
struct ResponseEnd {
  nlohmann::ordered_json error = nullptr;
  nlohmann::ordered_json incomplete_details = nullptr;
  nlohmann::ordered_json usage = nullptr;
};

// An answer is a list of items: reasoning, one message between calls, a function call. Streamed, each is told from its
// begin to its end in events with a running number; then the whole response follows once more.
class ResponseAnswer final : public BlockAnswer {
 public:
  // `model` must outlive this.
  ResponseAnswer(const ServedModel& model, ResponseHead head, bool is_stream);

  void Skip(uint32_t, const ChoiceDelta&) override {}  // sessions are of other APIs
  void AnsweredBy(std::string, const Usage&) override {}
  std::string Opening() override;
  std::string Delta(uint32_t choice, const ChoiceDelta& delta) override;
  std::string Finished(uint32_t choice, const ChoiceEnd& end) override;
  std::string Done(const Usage& usage) override;
  std::string Error(const ApiError& error) override;
  std::string Progress(const PrefillProgress& progress) override;
  std::string KeepAlive() override;
  bool is_stream() const override { return is_stream_; }

 private:
  std::string BeginBlock(const Block& block) override;
  std::string AddToBlock(std::string_view text) override;
  std::string EndBlock(bool is_complete) override;
  // `members`: JSON members behind the type, a comma in front of each.
  std::string Event(std::string_view type, std::string_view members);
  std::string Place() const;  // item_id and output_index as members
  std::string ItemJson(std::string_view status) const;
  std::string PartJson() const;
  std::string LogprobsJson() const;
  std::string ResponseJson(std::string_view status, const ResponseEnd& end) const;

  const ServedModel& model_;
  const ResponseHead head_;
  const bool is_stream_;
  uint64_t n_events_ = 0;
  uint32_t n_items_ = 0;
  Block block_;
  std::string item_id_;
  std::string text_;                     // of the item, or its arguments
  std::vector<TokenLogprobs> logprobs_;  // of the item
  std::vector<TokenLogprobs> fresh_;     // not told yet
  std::string output_;                   // JSON of the items before, with commas between them
  std::string finish_reason_;
};

}  // namespace longshelf::router
