#include "router/turn_memory.h"

#include <gtest/gtest.h>

#include "router/choice_output.h"
#include "testing/fixtures.h"

namespace longshelf::router {
namespace {

using tokenizer::ChatMessage;

ChatMessage Turn(const std::string& content, const std::string& arguments = "", const std::string& id = "call_1") {
  ChatMessage turn;
  turn.role = "assistant";
  turn.content = content;
  if (!arguments.empty()) turn.tool_calls = {{id, "f", arguments}};
  return turn;
}

// The tokens that come back for this message; empty when it is not known.
std::vector<uint32_t> Recalled(TurnMemory& turns, const ChatMessage& message, const std::string& ns = "ns") {
  std::vector<ChatMessage> messages = {message};
  const size_t n = turns.Recall(ns, messages);
  EXPECT_EQ(n, messages[0].sampled_text.has_value() ? 1u : 0u);
  return messages[0].sampled_tokens;
}

TEST(TurnMemory, KnowsATurnWhateverItsJsonLooksLike) {
  TurnMemory turns(1 << 20);
  turns.Remember("ns", Turn("c", R"({"a": {"x": 1.0, "y": [1, 2]}, "b": "é"})"), "text", {1, 2, 3});
  const std::vector<uint32_t> tokens = {1, 2, 3};
  EXPECT_EQ(Recalled(turns, Turn("c", R"({"b":"\u00e9","a":{"y":[1,2],"x":1}})")), tokens);
  EXPECT_EQ(Recalled(turns, Turn("c", R"({"a": {"x": 1.0, "y": [1, 2]}, "b": "é"})", "toolu_1")), tokens);
  EXPECT_TRUE(Recalled(turns, Turn("c", R"({"a": {"x": 1.5, "y": [1, 2]}, "b": "é"})")).empty());
  EXPECT_TRUE(Recalled(turns, Turn("c", R"({"a": {"x": 1, "y": [2, 1]}, "b": "é"})")).empty());
  EXPECT_TRUE(Recalled(turns, Turn("d", R"({"a": {"x": 1, "y": [1, 2]}, "b": "é"})")).empty());
  EXPECT_TRUE(Recalled(turns, Turn("c", R"({"a": {"x": 1, "y": [1, 2]}, "b": "é"})", "call_2")).empty());
  EXPECT_TRUE(Recalled(turns, Turn("c", R"({"a": {"x": 1, "y": [1, 2]}, "b": "é"})"), "other").empty());
}

TEST(TurnMemory, ReasoningMayBeLeftOutButNotChanged) {
  TurnMemory turns(1 << 20);
  ChatMessage turn = Turn("c");
  turn.reasoning_content = "hm";
  turns.Remember("ns", turn, "text", {1});
  EXPECT_FALSE(Recalled(turns, turn).empty());
  turn.reasoning_content = "";
  EXPECT_FALSE(Recalled(turns, turn).empty());
  turn.reasoning_content = "other";
  EXPECT_TRUE(Recalled(turns, turn).empty());
}

TEST(TurnMemory, ForgetsWhatWasNotUsedForLongest) {
  TurnMemory turns(4000);
  const std::vector<uint32_t> tokens(200);
  for (const char* const name : {"a", "b", "c"}) turns.Remember("ns", Turn(name), name, tokens);
  EXPECT_LE(turns.n_bytes(), 4000u);
  EXPECT_FALSE(Recalled(turns, Turn("a")).empty());
  turns.Remember("ns", Turn("d"), "d", tokens);
  EXPECT_TRUE(Recalled(turns, Turn("b")).empty());
  EXPECT_FALSE(Recalled(turns, Turn("a")).empty());
  turns.Remember("ns", Turn("huge"), "", std::vector<uint32_t>(5000));
  EXPECT_TRUE(Recalled(turns, Turn("huge")).empty());
  EXPECT_FALSE(Recalled(turns, Turn("a")).empty()) << "what never fits pushes nothing out";
}

// From the tokens of one answer to the prompt of the next request.
TEST(TurnMemory, APromptGoesOnFromTheTokensThatWereSampled) {
  const auto model = ServedModel::Load(testing::ModelPath("demo"), "", tokenizer::ChatDialect::kPreview);
  ASSERT_TRUE(model.ok()) << model.status();
  PrepareContext context;
  context.tenant.name = "t";
  context.namespaces = std::make_shared<const NamespaceIds>();
  context.turns = std::make_shared<TurnMemory>(1 << 20);
  const auto prepare = [&](std::vector<ChatMessage> messages) {
    ApiRequest request;
    request.messages = std::move(messages);
    auto prepared = Prepare(*model, context, std::move(request));
    EXPECT_TRUE(std::holds_alternative<PreparedRequest>(prepared));
    return std::get<PreparedRequest>(std::move(prepared));
  };
  ChatMessage user;
  user.role = "user";
  user.content = "hi";
  ChatMessage system;
  system.role = "system";
  system.content = "";
  system.tools = {R"({"name": "f"})"};  // with tools, reasoning stays
  const PreparedRequest first = prepare({system, user});
  // One token for each byte: not what the tokenizer makes of the text. And JSON that is not as Python writes it.
  const std::string text =
      "I think</think>Sure.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
      "string=\"false\">{\"y\":1,\"x\":[1,2]}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
      "<｜end▁of▁sentence｜>";
  std::vector<uint32_t> sampled;
  const std::vector<uint32_t> encoded = model->tokenizer->Encode(text).value();
  for (const uint32_t token : encoded) {
    const std::string_view bytes = model->tokenizer->TokenBytes(token);
    if (model->tokenizer->IsSpecial(token)) {
      sampled.push_back(token);
      continue;
    }
    for (const char c : bytes) sampled.push_back(model->tokenizer->TokenId({&c, 1}).value());
  }
  ASSERT_NE(sampled, encoded);
  ChoiceOutput output(*model, first, 7);
  ChatMessage turn;
  turn.role = "assistant";
  turn.content = "";
  const auto take = [&](const ChoiceDelta& delta) {
    *turn.content += delta.Text(AnswerPart::Kind::kContent);
    for (const AnswerPart& part : delta.parts) {
      if (part.kind == AnswerPart::Kind::kCallBegin) turn.tool_calls.push_back({part.call_id, part.text, ""});
    }
  };
  uint32_t index = 0;
  for (const uint32_t token : sampled) take(output.Push({index++, token, -1.0f, {}}));
  take(output.Finish(FinishReason::kStop));
  output.RememberTurn(*context.turns, first.namespace_id);

  EXPECT_EQ(turn.content, "Sure.");
  turn.tool_calls.at(0).arguments = R"({"a": {"x": [1, 2], "y": 1}})";  // and no reasoning
  ChatMessage result;
  result.role = "tool";
  result.content = "done";
  result.tool_call_id = turn.tool_calls[0].id;
  const PreparedRequest next = prepare({system, user, turn, result});
  EXPECT_EQ(next.n_turns_recalled, 1u);
  std::vector<uint32_t> expected = *first.first().tokens;
  expected.insert(expected.end(), sampled.begin(), sampled.end());
  const std::vector<uint32_t>& got = *next.first().tokens;
  ASSERT_GT(got.size(), expected.size());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), got.begin()));
}

}  // namespace
}  // namespace longshelf::router
