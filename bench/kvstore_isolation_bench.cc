// Does the time of a lookup tell one tenant what another has stored? Two kinds of lookups come in random order, each
// prompt once: of prompts that the victim has stored, and of prompts that nobody has, both named with the prober's own
// salt. CSV on
// standard output: medians of both in nanoseconds, the Kolmogorov-Smirnov distance of their times, and the chance of a
// distance so large if the times were of one kind. Exit code 1 when that is below 0.01, or when anything is found.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/config.h"
#include "kvstore/keys.h"
#include "kvstore/store.h"

namespace longshelf::kvstore {
namespace {

constexpr size_t kBlockTokens = 256;

struct BenchConfig {
  int n_prompts = 100'000;  // of each kind
};

// Of a prompt of one block.
LookupQuery QueryOf(uint64_t prompt, const std::string& tenant) {
  const std::array<uint8_t, 32> salt = NamespaceSalt("secret", tenant);
  LookupQuery query;
  query.root = ChainRoot({}, {reinterpret_cast<const char*>(salt.data()), salt.size()});
  std::mt19937_64 random(prompt);
  std::vector<uint32_t> tokens(kBlockTokens);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % 129'280);
  query.chain.push_back(ChainNext(query.root, tokens));
  return query;
}

void Put(Store& store, const LookupQuery& query) {
  const std::byte payload[1] = {std::byte{1}};
  ObjectHead head;
  head.key.hash = query.chain[0];
  head.parent = query.root;
  head.depth_tokens = kBlockTokens;
  head.payload_bytes = sizeof payload;
  head.digest = DigestOf(payload);
  head.namespace_id = "victim";
  auto opened = store.Open(head, absl::UnixEpoch());
  LONGSHELF_CHECK(opened.ok());
  auto& reservation = std::get<Store::Reservation>(*opened);
  LONGSHELF_CHECK(reservation.Append(0, payload).ok());
  LONGSHELF_CHECK(store.Commit(std::move(reservation), absl::UnixEpoch()).ok());
}

// Largest distance between the two distributions. Sorts both.
double Distance(std::vector<double>& a, std::vector<double>& b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  double distance = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const double at = std::min(a[i], b[j]);
    while (i < a.size() && a[i] <= at) ++i;
    while (j < b.size() && b[j] <= at) ++j;
    distance = std::max(distance, std::abs(static_cast<double>(i) / static_cast<double>(a.size()) -
                                           static_cast<double>(j) / static_cast<double>(b.size())));
  }
  return distance;
}

// Of the Kolmogorov distribution, with Stephens' correction for samples of finite size.
double Chance(double distance, size_t n_a, size_t n_b) {
  const double n = std::sqrt(static_cast<double>(n_a) * static_cast<double>(n_b) / static_cast<double>(n_a + n_b));
  const double x = (n + 0.12 + 0.11 / n) * distance;
  constexpr int kTerms = 100;
  double sum = 0;
  for (int k = 1; k <= kTerms; ++k) sum += (k % 2 == 1 ? 2 : -2) * std::exp(-2.0 * k * k * x * x);
  return std::clamp(sum, 0.0, 1.0);
}

int Run(const BenchConfig& config) {
  const auto n_prompts = static_cast<uint64_t>(config.n_prompts);
  const auto store = std::move(*Store::Create({.capacity_bytes = 2 * n_prompts * Store::ChargeOf(1) + (8 << 20)}));
  // Odd ones are the victim's.
  std::vector<uint64_t> prompts(2 * n_prompts);
  std::iota(prompts.begin(), prompts.end(), uint64_t{0});
  for (const uint64_t prompt : prompts) {
    if (prompt % 2 == 1) Put(*store, QueryOf(prompt, "victim"));
  }
  std::shuffle(prompts.begin(), prompts.end(), std::mt19937_64(1));
  std::vector<double> times[2];
  uint64_t n_found = 0;
  for (const uint64_t prompt : prompts) {
    const LookupQuery query = QueryOf(prompt, "prober");
    const auto begun = std::chrono::steady_clock::now();
    const auto found = store->Lookup(query);
    const auto ended = std::chrono::steady_clock::now();
    n_found += found->n_present + found->checkpoints.size();
    times[prompt % 2].push_back(std::chrono::duration<double, std::nano>(ended - begun).count());
  }
  const double distance = Distance(times[0], times[1]);
  const double chance = Chance(distance, times[0].size(), times[1].size());
  std::printf("lookups,found,unknown_p50_ns,foreign_p50_ns,distance,chance\n%zu,%lu,%.0f,%.0f,%.5f,%.3f\n",
              prompts.size(), static_cast<unsigned long>(n_found), times[0][times[0].size() / 2],
              times[1][times[1].size() / 2], distance, chance);
  constexpr double kChanceMin = 0.01;
  return n_found == 0 && chance >= kChanceMin ? 0 : 1;
}

}  // namespace
}  // namespace longshelf::kvstore

int main(int argc, char** argv) {
  longshelf::kvstore::BenchConfig config;
  longshelf::ConfigSpec spec("kvstore_isolation_bench", "Does the time of a lookup tell what another tenant stored?");
  spec.Add(&config.n_prompts, "prompts", "prompts of each kind", {1000, 1 << 24});
  if (const auto outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  return longshelf::kvstore::Run(config);
}
