#include <gtest/gtest.h>

#include <iostream>

#include "churn.h"
#include "common/config.h"

int main(int argc, char** argv) {
  longshelf::testing::ChurnSettings settings;
  longshelf::ConfigSpec spec("churn", "Asks, cancels, leaves, parks and resumes at random; nothing may stay behind.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&settings.minutes, "minutes", "how long", {0.01, 100'000});
  spec.Add(&settings.n_clients, "clients", "clients at the same time", {1, 256});
  spec.Add(&settings.seed, "seed", "of what clients do", {0, 1ULL << 32});
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  ::testing::InitGoogleTest();  // the fixtures' own expectations count
  const absl::Status status = longshelf::testing::RunChurn(settings, std::cout);
  if (!status.ok()) std::cerr << "churn: " << status.message() << '\n';
  const bool fixtures_failed = ::testing::UnitTest::GetInstance()->ad_hoc_test_result().Failed();
  return status.ok() && !fixtures_failed ? 0 : 1;
}
