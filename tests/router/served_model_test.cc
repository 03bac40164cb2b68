#include "router/served_model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "testing/fixtures.h"

namespace longshelf::router {
namespace {

TEST(Prepare, KeepsTheTokensAndNotTheText) {
  ServedModel model;
  model.name = "demo";
  model.n_context_max = 100;
  const PrepareContext context{{"alice"}, "secret", std::make_shared<const NamespaceIds>(), std::nullopt};
  const std::vector<uint32_t> tokens = {5, 6, 7};
  ApiRequest request;
  request.api = Api::kCompletions;
  request.prompts = {tokens};
  request.messages.resize(1);
  const auto prepared = Prepare(model, context, request);
  ASSERT_TRUE(std::holds_alternative<PreparedRequest>(prepared));
  const auto& [kept, prompt] =
      std::pair(std::get<PreparedRequest>(prepared).request, *std::get<PreparedRequest>(prepared).first().tokens);
  EXPECT_EQ(prompt, tokens);
  EXPECT_TRUE(kept.messages.empty());
  EXPECT_TRUE(kept.prompts.empty());
}

// The demo model with another config.json.
absl::StatusOr<ServedModel> LoadWith(const std::string& config) {
  const std::filesystem::path dir = testing::MakeTempDir("served");
  std::filesystem::copy(testing::ModelPath("demo") / "tokenizer.json", dir);
  std::ofstream(dir / "config.json") << config;
  return ServedModel::Load(dir, "", tokenizer::ChatDialect::kPreview);
}

TEST(ServedModel, TakesAByteOrderMarkAndWholeNumbersThatAreWrittenAsFractions) {
  const std::string fields = R"({"vocab_size": 8000.0, "max_position_embeddings": 65536.0, "eos_token_id": [1.0]})";
  const auto model = LoadWith("\xEF\xBB\xBF" + fields);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->n_context_max, 65536U);
  EXPECT_EQ(model->stop_token_ids, std::vector<uint32_t>({1}));
  const auto refused = LoadWith(R"({"vocab_size": 8000, "max_position_embeddings": 65536.5, "eos_token_id": 1})");
  EXPECT_NE(refused.status().message().find("max_position_embeddings must be a whole number"), std::string::npos)
      << refused.status();
}

TEST(ServedModel, CallsAPointerOfGitLfsByItsName) {
  const auto refused = LoadWith("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n");
  EXPECT_NE(refused.status().message().find("config.json: is a Git LFS pointer"), std::string::npos)
      << refused.status();
}

}  // namespace
}  // namespace longshelf::router
