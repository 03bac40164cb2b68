#include "router/choice_output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "testing/fixtures.h"

namespace longshelf::router {
namespace {

class ChoiceOutputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto model = ServedModel::Load(testing::ModelPath("demo"), "", tokenizer::ChatDialect::kPreview);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }

  static PreparedRequest Chat(tokenizer::ThinkingMode mode = tokenizer::ThinkingMode::kThinking) {
    PreparedRequest prepared;
    prepared.request.api = Api::kChat;
    prepared.request.thinking_mode = mode;
    return prepared;
  }

  // Everything a client would have at the end, and whether the output stopped by itself.
  struct Whole {
    ChoiceDelta all;
    bool stopped = false;
    std::string finish_reason;
    uint32_t n_tokens = 0;
    uint32_t n_reasoning_tokens = 0;
  };
  static Whole Run(const PreparedRequest& prepared, const std::string& text,
                   FinishReason reason = FinishReason::kStop) {
    ChoiceOutput output(*model_, prepared, 7);
    Whole whole;
    const auto add = [&](const ChoiceDelta& delta) {
      whole.all.reasoning += delta.reasoning;
      whole.all.content += delta.content;
      whole.all.tool_calls.insert(whole.all.tool_calls.end(), delta.tool_calls.begin(), delta.tool_calls.end());
      whole.all.logprobs.insert(whole.all.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    };
    const auto tokens = model_->tokenizer->Encode(text);
    EXPECT_TRUE(tokens.ok());
    uint32_t index = 0;
    for (const uint32_t token : *tokens) {
      add(output.Push({index++, token, -1.0f, {}}));
      if (output.stopped()) break;
    }
    add(output.Finish());
    whole.stopped = output.stopped();
    whole.finish_reason = output.FinishReasonName(reason);
    whole.n_tokens = output.n_tokens();
    whole.n_reasoning_tokens = output.n_reasoning_tokens();
    return whole;
  }

  static std::optional<ServedModel> model_;
};
std::optional<ServedModel> ChoiceOutputTest::model_;

constexpr char kEos[] = "<｜end▁of▁sentence｜>";
constexpr char kToolCall[] =
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter name=\"a\" "
    "string=\"false\">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"add\">\n<｜DSML｜parameter "
    "name=\"a\" string=\"false\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

TEST_F(ChoiceOutputTest, SplitsReasoningFromContentAndCountsIt) {
  const Whole whole = Run(Chat(), std::string("I think.</think>Hello, wörld.") + kEos);
  EXPECT_EQ(whole.all.reasoning, "I think.");
  EXPECT_EQ(whole.all.content, "Hello, wörld.");
  EXPECT_EQ(whole.finish_reason, "stop");
  EXPECT_GT(whole.n_reasoning_tokens, 0u);
  EXPECT_LT(whole.n_reasoning_tokens, whole.n_tokens);
}

TEST_F(ChoiceOutputTest, ReadsToolCallsWithIds) {
  const Whole whole = Run(Chat(tokenizer::ThinkingMode::kChat), std::string("Sure.") + kToolCall + kEos);
  EXPECT_EQ(whole.all.content, "Sure.");
  ASSERT_EQ(whole.all.tool_calls.size(), 2u);
  EXPECT_EQ(whole.all.tool_calls[0].name, "add");
  EXPECT_EQ(whole.all.tool_calls[0].arguments, R"({"a": 1})");
  EXPECT_NE(whole.all.tool_calls[0].id, whole.all.tool_calls[1].id);
  EXPECT_EQ(whole.finish_reason, "tool_calls");
}

TEST_F(ChoiceOutputTest, StopsAfterTheFirstToolCallWhenOnlyOneIsAllowed) {
  PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  prepared.request.one_tool_call = true;
  const Whole whole = Run(prepared, std::string(kToolCall) + kEos);
  EXPECT_EQ(whole.all.tool_calls.size(), 1u);
  EXPECT_TRUE(whole.stopped);
  EXPECT_EQ(whole.finish_reason, "tool_calls");
}

TEST_F(ChoiceOutputTest, StopsAtAStopStringAcrossTokensAndKeepsItOut) {
  PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  prepared.request.stop = {"capital of F", "never"};
  const Whole whole = Run(prepared, "Paris is the capital of France, as you know.");
  EXPECT_EQ(whole.all.content, "Paris is the ");
  EXPECT_TRUE(whole.stopped);
  EXPECT_EQ(whole.finish_reason, "stop");
}

TEST_F(ChoiceOutputTest, GivesBackWhatWasHeldForAStopThatNeverCame) {
  PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  prepared.request.stop = {"capital of Finland"};
  const Whole whole = Run(prepared, "Paris is the capital of F", FinishReason::kLength);
  EXPECT_EQ(whole.all.content, "Paris is the capital of F");
  EXPECT_EQ(whole.finish_reason, "length");
}

TEST_F(ChoiceOutputTest, TextAfterTheEndTokenNeverAppears) {
  const Whole whole = Run(Chat(tokenizer::ThinkingMode::kChat), std::string("One.") + kEos + kEos);
  EXPECT_EQ(whole.all.content, "One.");
}

TEST_F(ChoiceOutputTest, LogprobsSayWhetherTheirTokenIsReasoning) {
  PreparedRequest prepared = Chat();
  prepared.request.sampling.logprobs = true;
  const Whole whole = Run(prepared, std::string("Hm.</think>Yes.") + kEos);
  ASSERT_FALSE(whole.all.logprobs.empty());
  EXPECT_TRUE(whole.all.logprobs.front().in_reasoning);
  EXPECT_FALSE(whole.all.logprobs.back().in_reasoning);
  EXPECT_EQ(whole.all.logprobs.size() + 1, whole.n_tokens) << "every token but the end token";
}

TEST_F(ChoiceOutputTest, PlainCompletionsAreTextWithoutSpecialTokens) {
  PreparedRequest prepared;
  prepared.request.api = Api::kCompletions;
  const Whole whole = Run(prepared, std::string("a <｜User｜>b") + kEos);
  EXPECT_EQ(whole.all.content, "a b");
}

}  // namespace
}  // namespace longshelf::router
