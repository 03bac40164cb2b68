#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/comm/expert_transport.h"
#include "engine/model/model.h"
#include "engine/model/sequence_memory.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

struct Golden {
  const char* model;
  int revision;
  const char* digest;
};

// SHA-256 of the logits of 600 tokens. Where one changes, bits changed: count kNumericsRevision up, so that no KV of
// the old bits is ever continued with the new ones, and write the new digests here.
constexpr Golden kGolden[] = {
    {"micro-flash", 2, "a749e1bf04c7234e0925807f288777e01465f3e1a3f94ce31f82498a5fb9262f"},
    {"micro-pro", 2, "96e6356a882eb29bc8383437ec8b946d1de6902a1993d9f4ab958dadbbda2013"},
    {"micro-odd", 2, "b39c81102d62a542a4067707b0b0424b04c2c21b11bd23309f77d93633da5824"},
};

std::string LogitsDigest(const std::string& name) {
  auto weights = LoadModelWeights(testing::ModelPath(name), nullptr);
  EXPECT_TRUE(weights.ok()) << weights.status();
  LocalExpertTransport transport;
  ModelOptions options;
  options.n_threads = 2;
  auto model = Model::Create(std::shared_ptr<const ModelWeights>(std::move(*weights)), options, transport).value();
  std::mt19937 random(17);
  std::vector<uint32_t> tokens(600);
  for (uint32_t& t : tokens) t = static_cast<uint32_t>(random() % static_cast<uint32_t>(model->config().vocab_size));
  SequenceMemory memory(model->layout(), 600);
  const auto out = model->Forward({{memory.Chunk(0, tokens, WantLogits::kAll)}});
  EXPECT_TRUE(out.ok()) << out.status();
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(out->logits.data()), out->logits.size_bytes(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return absl::BytesToHexString(digest);
}

TEST(Golden, BitsChangeOnlyWithTheNumericsRevision) {
  for (const Golden& golden : kGolden) {
    EXPECT_EQ(LogitsDigest(golden.model), golden.digest) << golden.model;
    EXPECT_EQ(golden.revision, kNumericsRevision) << golden.model;
  }
}

// What workers and routers compare, and what KV is found by, is of one revision: another one has other names for all.
TEST(Golden, TheFingerprintIsOfWeightsLayoutAndNumericsRevision) {
  auto weights = LoadModelWeights(testing::ModelPath("micro-flash"), nullptr);
  ASSERT_TRUE(weights.ok()) << weights.status();
  LocalExpertTransport transport;
  const auto model =
      Model::Create(std::shared_ptr<const ModelWeights>(std::move(*weights)), ModelOptions(), transport).value();
  const auto of_revision = [&](int revision) {
    const auto& digest = model->weights().digest;
    const std::string text = std::string(reinterpret_cast<const char*>(digest.data()), digest.size()) +
                             model->layout().Describe() + "numerics revision " + std::to_string(revision);
    std::array<uint8_t, SHA256_DIGEST_LENGTH> out;
    SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
    return out;
  };
  EXPECT_EQ(model->fingerprint(), of_revision(kNumericsRevision));
  EXPECT_NE(model->fingerprint(), of_revision(kNumericsRevision + 1));
}

}  // namespace
}  // namespace longshelf::engine
