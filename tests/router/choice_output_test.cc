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
    std::string reasoning;
    std::string content;
    std::vector<tokenizer::ChatToolCall> tool_calls;
    size_t n_complete = 0;  // of them
    std::vector<TokenLogprobs> logprobs;
    bool stopped = false;
    std::string stopped_by;
    std::string finish_reason;
    uint32_t n_tokens = 0;
    uint32_t n_reasoning_tokens = 0;

    void Add(const ChoiceDelta& delta) {
      reasoning += delta.Text(AnswerPart::Kind::kReasoning);
      content += delta.Text(AnswerPart::Kind::kContent);
      for (const AnswerPart& part : delta.parts) {
        if (part.kind == AnswerPart::Kind::kCallBegin) tool_calls.push_back({part.call_id, part.text, ""});
        if (part.kind == AnswerPart::Kind::kCallArguments) tool_calls.at(part.call).arguments += part.text;
        if (part.kind == AnswerPart::Kind::kCallEnd) ++n_complete;
      }
      logprobs.insert(logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    }
  };
  static std::vector<uint32_t> TokensOf(const std::string& text) { return model_->tokenizer->Encode(text).value(); }
  static Whole Run(const PreparedRequest& prepared, const std::vector<uint32_t>& tokens,
                   FinishReason reason = FinishReason::kStop) {
    ChoiceOutput output(*model_, prepared, 7);
    Whole whole;
    uint32_t index = 0;
    for (const uint32_t token : tokens) {
      whole.Add(output.Push({index++, token, -1.0f, {}}));
      if (output.stopped()) break;
    }
    whole.Add(output.Finish(reason));
    whole.stopped = output.stopped();
    whole.stopped_by = output.stopped_by();
    whole.finish_reason = output.FinishReasonName(reason);
    whole.n_tokens = output.n_tokens();
    whole.n_reasoning_tokens = output.n_reasoning_tokens();
    return whole;
  }
  static Whole Run(const PreparedRequest& prepared, const std::string& text,
                   FinishReason reason = FinishReason::kStop) {
    return Run(prepared, TokensOf(text), reason);
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
  EXPECT_EQ(whole.reasoning, "I think.");
  EXPECT_EQ(whole.content, "Hello, wörld.");
  EXPECT_EQ(whole.finish_reason, "stop");
  EXPECT_GT(whole.n_reasoning_tokens, 0u);
  EXPECT_LT(whole.n_reasoning_tokens, whole.n_tokens);
}

TEST_F(ChoiceOutputTest, ReadsToolCallsWithIds) {
  const Whole whole = Run(Chat(tokenizer::ThinkingMode::kChat), std::string("Sure.") + kToolCall + kEos);
  EXPECT_EQ(whole.content, "Sure.");
  ASSERT_EQ(whole.tool_calls.size(), 2u);
  EXPECT_EQ(whole.tool_calls[0].name, "add");
  EXPECT_EQ(whole.tool_calls[0].arguments, R"({"a": 1})");
  EXPECT_NE(whole.tool_calls[0].id, whole.tool_calls[1].id);
  EXPECT_EQ(whole.finish_reason, "tool_calls");
}

TEST_F(ChoiceOutputTest, StopsAfterTheFirstToolCallWhenOnlyOneIsAllowed) {
  PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  prepared.request.one_tool_call = true;
  const Whole whole = Run(prepared, std::string(kToolCall) + kEos);
  EXPECT_EQ(whole.tool_calls.size(), 1u);
  EXPECT_TRUE(whole.stopped);
  EXPECT_EQ(whole.finish_reason, "tool_calls");
}

TEST_F(ChoiceOutputTest, NoCutOfACallPutsMarkupIntoTheContent) {
  const PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  const std::vector<uint32_t> tokens = TokensOf(std::string("Sure.") + kToolCall);
  const Whole full = Run(prepared, tokens);
  ASSERT_EQ(full.tool_calls.size(), 2u);
  for (size_t n = 0; n <= tokens.size(); ++n) {
    const Whole cut = Run(prepared, std::vector<uint32_t>(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(n)),
                          FinishReason::kLength);
    EXPECT_TRUE(std::string_view("Sure.\n\n").starts_with(cut.content)) << n << ": " << cut.content;
    for (size_t i = 0; i < cut.tool_calls.size(); ++i) {
      EXPECT_EQ(cut.tool_calls[i].id, full.tool_calls[i].id);
      EXPECT_TRUE(full.tool_calls[i].arguments.starts_with(cut.tool_calls[i].arguments));
    }
    EXPECT_EQ(cut.finish_reason, "length");
  }
}

TEST_F(ChoiceOutputTest, AStopStringMayCutACall) {
  PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  prepared.request.stop = {"never", "string=\"false\">2"};
  const Whole whole = Run(prepared, std::string("Sure.") + kToolCall + kEos);
  EXPECT_EQ(whole.content, "Sure.");
  EXPECT_EQ(whole.tool_calls.size(), 2u);
  EXPECT_EQ(whole.n_complete, 1u);
  EXPECT_EQ(whole.finish_reason, "stop") << "the last call is not complete";
  EXPECT_EQ(whole.stopped_by, prepared.request.stop[1]);
}

TEST_F(ChoiceOutputTest, ControlTokensInTheMiddleOfTextAreNoText) {
  const std::string noisy =
      "<think>Hm<｜User｜>m.</think>On</think>e<｜Assistant｜> ｜DSML｜two<｜begin▁of▁sentence｜>.";
  const Whole whole = Run(Chat(), noisy + kEos);
  EXPECT_EQ(whole.reasoning, "Hmm.");
  EXPECT_EQ(whole.content, "One two.");
}

TEST_F(ChoiceOutputTest, StopStringsAreLookedForInTheAnswerOnly) {
  PreparedRequest prepared = Chat();
  prepared.request.stop = {"think"};
  const Whole whole = Run(prepared, std::string("I think so.</think>You think so.") + kEos);
  EXPECT_EQ(whole.reasoning, "I think so.");
  EXPECT_EQ(whole.content, "You ");
  EXPECT_EQ(whole.stopped_by, "think");
}

TEST_F(ChoiceOutputTest, StopsAtAStopStringAcrossTokensAndKeepsItOut) {
  PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  prepared.request.stop = {"capital of F", "never"};
  const Whole whole = Run(prepared, "Paris is the capital of France, as you know.");
  EXPECT_EQ(whole.content, "Paris is the ");
  EXPECT_TRUE(whole.stopped);
  EXPECT_EQ(whole.finish_reason, "stop");
}

TEST_F(ChoiceOutputTest, GivesBackWhatWasHeldForAStopThatNeverCame) {
  PreparedRequest prepared = Chat(tokenizer::ThinkingMode::kChat);
  prepared.request.stop = {"capital of Finland"};
  const Whole whole = Run(prepared, "Paris is the capital of F", FinishReason::kLength);
  EXPECT_EQ(whole.content, "Paris is the capital of F");
  EXPECT_EQ(whole.finish_reason, "length");
}

TEST_F(ChoiceOutputTest, TextAfterTheEndTokenNeverAppears) {
  const Whole whole = Run(Chat(tokenizer::ThinkingMode::kChat), std::string("One.") + kEos + kEos);
  EXPECT_EQ(whole.content, "One.");
}

TEST_F(ChoiceOutputTest, LogprobsSayWhetherTheirTokenIsReasoning) {
  PreparedRequest prepared = Chat();
  prepared.request.sampling.logprobs = true;
  const Whole whole = Run(prepared, std::string("Hm.</think>Yes.") + kEos);
  ASSERT_FALSE(whole.logprobs.empty());
  EXPECT_TRUE(whole.logprobs.front().in_reasoning);
  EXPECT_FALSE(whole.logprobs.back().in_reasoning);
  EXPECT_EQ(whole.logprobs.size() + 1, whole.n_tokens) << "every token but the end token";
}

TEST_F(ChoiceOutputTest, PlainCompletionsAreTextWithoutSpecialTokens) {
  PreparedRequest prepared;
  prepared.request.api = Api::kCompletions;
  const Whole whole = Run(prepared, std::string("a <｜User｜>b") + kEos);
  EXPECT_EQ(whole.content, "a b");
}

}  // namespace
}  // namespace longshelf::router
