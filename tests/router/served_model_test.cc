#include "router/served_model.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

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
  request.prompt = tokens;
  request.messages.resize(1);
  const auto prepared = Prepare(model, context, request);
  ASSERT_TRUE(std::holds_alternative<PreparedRequest>(prepared));
  const auto& [kept, prompt] =
      std::pair(std::get<PreparedRequest>(prepared).request, *std::get<PreparedRequest>(prepared).prompt);
  EXPECT_EQ(prompt, tokens);
  EXPECT_TRUE(kept.messages.empty());
  EXPECT_EQ(kept.prompt, (decltype(kept.prompt)()));
}

}  // namespace
}  // namespace longshelf::router
