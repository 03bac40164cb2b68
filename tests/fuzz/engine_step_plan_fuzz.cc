// Plans and results as they travel in a shard group. Their form is fixed: what is accepted is written again as the same
// bytes. The checksum is made right first where the second byte is odd.
#include <xxhash.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "engine/step_plan.h"
#include "fuzz_input.h"
#include "fuzz_target.h"

namespace longshelf::engine {
namespace {

std::string Sealed(std::string_view body) {
  const uint64_t sum = XXH3_64bits(body.data(), body.size());
  return std::string(body).append(reinterpret_cast<const char*>(&sum), sizeof sum);
}

void ParsePlan(const std::string& bytes) {
  const absl::StatusOr<StepPlan> plan = StepPlan::Parse(bytes);
  if (!plan.ok()) return;
  LONGSHELF_CHECK(plan->Serialize() == bytes);
  // A result that fits nothing of the plan is told apart from one that does.
  LONGSHELF_CHECK(MergeResults(*plan, std::vector<StepResult>(1)).ok() == plan->rows.empty());
}

void ParseResult(const std::string& bytes) {
  const absl::StatusOr<StepResult> result = StepResult::Parse(bytes);
  if (!result.ok()) return;
  LONGSHELF_CHECK(result->Serialize() == bytes);
  for (const SlotFailure& failure : result->failures) LONGSHELF_CHECK(!failure.status.ok());
}

StepPlan Plan() {
  StepPlan plan;
  plan.seq = 7;
  plan.open_slots.push_back(
      {{0, 1}, {.temperature = 0.5, .seed = 3, .logprobs = true, .logit_bias = {{7, -1.5F}}}, {1, 2, 3}});
  plan.set_blocks.push_back({{0, 1}, 0, 5});
  plan.move_copies.push_back({0, 3, 1, 4, 500});
  plan.import_blocks.push_back({1, 9, 4});
  plan.import_states.push_back({{0, 1}, 256, 6});
  plan.rows.push_back({.slot = {0, 1}, .n_past = 256, .tokens = {4, 5}, .sample = true, .n_drafts = 1});
  plan.rows.push_back({.slot = {0, 2}, .n_past = 0, .tokens = {4, 5}, .targets = {5, 6}});
  plan.export_blocks.push_back({0, 5, 200, 8, {}});
  plan.export_states.push_back({{0, 1}, 258, 9, {}});
  plan.drop_copies.push_back({0, 3});
  plan.n_draft = 2;
  return plan;
}

StepResult Result() {
  StepResult result;
  const SampledToken sampled{.token = 3, .logprob = -0.5F, .top = {{3, -0.5F}, {4, -1.0F}}, .logits = {0.5F, 1.0F}};
  result.rows.push_back(
      {.sampled = {sampled}, .draft = {4}, .draft_confidence = {0.25F}, .scored = {{5, -0.75F, {{4, -0.5F}}}}});
  result.failures.push_back({{0, 1}, absl::InternalError("not a number")});
  return result;
}

std::string Input(char kind, const std::string& bytes) {
  return std::string{kind, '\1'} + bytes.substr(0, bytes.size() - sizeof(uint64_t));
}

}  // namespace
}  // namespace longshelf::engine

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using namespace engine;  // all of the input is of the engine
  return {.inputs = {Input('\0', Plan().Serialize()), Input('\0', StepPlan().Serialize()),
                     Input('\1', Result().Serialize()), Input('\1', StepResult().Serialize())}};
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  const bool is_plan = input.Byte() % 2 == 0;
  const bool fix_checksum = input.Byte() % 2 == 1;
  const std::string_view body = input.Rest();
  const std::string bytes = fix_checksum ? engine::Sealed(body) : std::string(body);
  is_plan ? engine::ParsePlan(bytes) : engine::ParseResult(bytes);
  return 0;
}
