// Sequences whose output has a form, among others that have none, over a model that knows nothing of forms.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine_harness.h"
#include "engine_requests.h"
#include "fake_model.h"
#include "grammar/constraint.h"
#include "grammar/output_spec.h"

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kEos = 1;

// Of the fake model's 97 tokens: some JSON in pieces that overlap. The others have no text.
std::shared_ptr<grammar::ConstraintCache> Constraints() {
  std::vector<grammar::Vocabulary::Token> tokens(FakeModel::kVocab);
  const std::vector<std::string> texts = {"{",    "}",   "\"",   ": ",     ", ",       "[",    "]",  "0",
                                          "1",    "2",   "12",   "a",      "b",        "ab",   "é",  "\xC3",
                                          "\xA9", "{\"", "\": ", "\", \"", "true",     "null", "tr", "ue",
                                          " ",    ",",   ":",    "c",      "\"a\": 1", "x",    "y",  "</think>"};
  for (size_t i = 0; i < texts.size(); ++i) tokens[2 + i] = {texts[i], texts[i] == "</think>"};
  return std::make_shared<grammar::ConstraintCache>(std::make_shared<const grammar::Vocabulary>(tokens));
}

std::unique_ptr<FakeGroup> MakeGroup(const std::shared_ptr<grammar::ConstraintCache>& constraints, int n_shards,
                                     uint32_t n_blocks, int64_t n_draft_max = 0, int64_t n_draft = 0) {
  std::vector<std::unique_ptr<Executor>> shards;
  for (int i = 0; i < n_shards; ++i) {
    auto executor = Executor::Create(std::make_unique<FakeModel>(n_draft_max, n_draft),
                                     {.n_slots = 8, .n_blocks = n_blocks, .constraints = constraints});
    EXPECT_TRUE(executor.ok()) << executor.status();
    shards.push_back(*std::move(executor));
  }
  auto group = std::make_unique<FakeGroup>(std::move(shards));
  group->keep_plans = false;
  return group;
}

std::string Spec(const std::string& schema, bool after_thinking = false) {
  grammar::OutputSpec spec;
  spec.answer_schema = schema;
  spec.after_thinking = after_thinking;
  return spec.Serialize();
}

const char* const kSchemas[] = {
    R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"array","items":{"type":"string","maxLength":4}}},
        "required":["a","b"],"additionalProperties":false})",
    R"({"type":"array","items":{"enum":["ab","é",12,null,true]},"minItems":30,"maxItems":40})", ""};

SequenceRequest FormRequest(size_t i, double temperature, uint32_t max_tokens) {
  SequenceRequest request = Request(Prompt(40 + 13 * i, i % 4), max_tokens);
  request.sampling.temperature = temperature;
  request.sampling.seed = i;
  if (const std::string schema = kSchemas[i % 3]; !schema.empty()) request.output_spec = Spec(schema, i % 2 == 1);
  return request;
}

struct Outputs {
  std::vector<std::vector<uint32_t>> tokens;
  uint64_t n_accepted = 0;
};

Outputs RunAll(double temperature, int n_shards, uint32_t n_blocks, bool drafts) {
  const auto constraints = Constraints();
  const auto group = MakeGroup(constraints, n_shards, n_blocks, drafts ? 6 : 0, drafts ? 4 : 0);
  EngineConfig config = SmallConfig();
  config.n_sequences_max = 8 * static_cast<uint32_t>(n_shards);
  config.draft_lookup = config.draft_model = drafts;
  const FakeHasher hasher;
  Harness harness(config, *group, hasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    for (size_t i = 0; i < 12; ++i) sinks.push_back(harness.Submit(FormRequest(i, temperature, 300)));
  });
  EXPECT_TRUE(harness.Run().ok());
  Outputs out;
  for (const auto& sink : sinks) {
    EXPECT_FALSE(sink->failed.has_value()) << *sink->failed;
    out.tokens.push_back(sink->tokens());
  }
  out.n_accepted = harness.load.drafts_of_lookup.n_accepted + harness.load.drafts_of_model.n_accepted;
  return out;
}

std::string TextOf(const std::vector<uint32_t>& tokens) {
  const auto constraints = Constraints();
  std::string text;
  for (const uint32_t token : tokens) {
    for (const uint16_t symbol : constraints->vocabulary().SymbolsOf(token)) {
      text += symbol < 256 ? std::string(1, static_cast<char>(symbol)) : "</think>";
    }
  }
  return text;
}

TEST(OutputForm, RowsOfAFormEndAsItSaysAndTheOthersAreAsEver) {
  for (const double temperature : {0.0, 1.0}) {
    const Outputs outputs = RunAll(temperature, 2, 256, /*drafts=*/false);
    size_t n_complete = 0;
    for (size_t i = 0; i < outputs.tokens.size(); ++i) {
      const std::vector<uint32_t>& tokens = outputs.tokens[i];
      if (i % 3 == 2) {
        if (temperature > 0.0) continue;
        EXPECT_EQ(tokens, FakeModel::Continue(FormRequest(i, 0, 300).prompt, 300, kEos)) << i;
        continue;
      }
      if (tokens.back() != kEos) continue;
      std::string text = TextOf(tokens);
      if (i % 2 == 1) {
        ASSERT_NE(text.find("</think>"), std::string::npos) << text;
        text = text.substr(text.find("</think>") + 8);
      }
      EXPECT_TRUE(nlohmann::json::accept(text)) << i << ": " << text;
      ++n_complete;
    }
    EXPECT_GE(n_complete, 4u);
  }
}

TEST(OutputForm, IsTheSameToTheTokenWithDraftsInOtherGroupsAndWhenMovedOut) {
  for (const double temperature : {0.0, 1.0}) {
    const Outputs plain = RunAll(temperature, 1, 256, /*drafts=*/false);
    EXPECT_EQ(RunAll(temperature, 3, 256, false).tokens, plain.tokens);
    const Outputs drafted = RunAll(temperature, 2, 256, /*drafts=*/true);
    EXPECT_EQ(drafted.tokens, plain.tokens);
    EXPECT_GT(drafted.n_accepted, 10u);
    EXPECT_EQ(RunAll(temperature, 1, 12, /*drafts=*/true).tokens, plain.tokens) << "blocks for few at a time";
  }
}

TEST(OutputForm, GoesOnFromEveryCutOfWhatWasCommitted) {
  const auto constraints = Constraints();
  SequenceRequest whole = FormRequest(1, 1.0, 120);
  const auto run = [&](const SequenceRequest& request) {
    const auto group = MakeGroup(constraints, 1, 64);
    const FakeHasher hasher;
    Harness harness(SmallConfig(), *group, hasher);
    std::shared_ptr<RecordingSink> sink;
    harness.Then([&] { sink = harness.Submit(request); });
    EXPECT_TRUE(harness.Run().ok());
    EXPECT_FALSE(sink->failed.has_value()) << *sink->failed;
    return sink->tokens();
  };
  const std::vector<uint32_t> tokens = run(whole);
  ASSERT_GT(tokens.size(), 30u);
  for (size_t cut = 1; cut < tokens.size(); ++cut) {
    SequenceRequest rest = whole;
    rest.committed.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(cut));
    ASSERT_EQ(Join(rest.committed, run(rest)), tokens) << cut;
  }
}

TEST(OutputForm, WhatCannotBeKeptToFailsThatSequenceOnly) {
  const auto constraints = Constraints();
  const auto group = MakeGroup(constraints, 1, 64);
  const FakeHasher hasher;
  Harness harness(SmallConfig(), *group, hasher);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  harness.Then([&] {
    SequenceRequest request = FormRequest(2, 0.0, 20);
    sinks.push_back(harness.Submit(request));
    request.output_spec = Spec(R"({"const":"q"})");  // no token writes a q
    sinks.push_back(harness.Submit(request));
    request.output_spec = Spec(R"({"uniqueItems":true})");
    sinks.push_back(harness.Submit(request));
    request.output_spec = Spec(R"({"type":"integer"})");
    request.committed = {4};  // a quote
    sinks.push_back(harness.Submit(request));
    request.committed = {};
    request.output_spec = std::string(grammar::kSpecBytesMax + 1, 'x');
    sinks.push_back(harness.Submit(request));
  });
  EXPECT_TRUE(harness.Run().ok());
  EXPECT_TRUE(sinks[0]->finished.has_value());
  const char* const says[] = {"", "no token of this model's vocabulary", "uniqueItems", "output token 0",
                              "output_spec has"};
  for (size_t i = 1; i < sinks.size(); ++i) {
    ASSERT_TRUE(sinks[i]->failed.has_value()) << i;
    EXPECT_THAT(std::string(sinks[i]->failed->message()), HasSubstr(says[i]));
  }
}

TEST(OutputForm, IsRefusedWithoutAVocabulary) {
  const auto group = MakeGroup(nullptr, 1, 64);
  const FakeHasher hasher;
  Harness harness(SmallConfig(), *group, hasher);
  std::shared_ptr<RecordingSink> sink;
  harness.Then([&] { sink = harness.Submit(FormRequest(0, 0.0, 20)); });
  EXPECT_TRUE(harness.Run().ok());
  ASSERT_TRUE(sink->failed.has_value());
  EXPECT_EQ(sink->failed->code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace longshelf::engine
