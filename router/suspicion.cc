#include "router/suspicion.h"

#include <algorithm>
#include <functional>

namespace longshelf::router {
namespace {

constexpr uint32_t kSilentDeaths = 2;
constexpr uint32_t kEarlyDeaths = 3;

// Those for whom `matches`, if they are all of one request.
std::vector<size_t> OfOneRequest(std::span<const DeathWitness> witnesses,
                                 const std::function<bool(const DeathWitness&)>& matches) {
  std::vector<size_t> out;
  for (size_t i = 0; i < witnesses.size(); ++i) {
    if (!matches(witnesses[i])) continue;
    if (!out.empty() && witnesses[out[0]].request != witnesses[i].request) return {};
    out.push_back(i);
  }
  return out;
}

}  // namespace

void Suspicion::OnDeath(uint64_t death, absl::Time now) {
  n_early = n_new_tokens < kProofTokens ? n_early + 1 : 1;
  ++n_silent;
  deaths.push_back(death);
  since = now;
}

void Suspicion::OnSurvived(uint64_t death) {
  const bool is_last = !deaths.empty() && deaths.back() == death;
  std::erase(deaths, death);
  if (!is_last) return;
  if (n_silent > 0) --n_silent;
  if (n_early > 0) --n_early;
}

void UnexplainedDeaths::Add(uint64_t death, absl::Time now) {
  while (!deaths_.empty() && now - deaths_.front().at > kStorm) deaths_.pop_front();
  deaths_.push_back({death, now});
}

void UnexplainedDeaths::Remove(uint64_t death) {
  std::erase_if(deaths_, [death](const Death& one) { return one.number == death; });
}

bool UnexplainedDeaths::HasOthers(const Suspicion& suspicion) const {
  return std::any_of(deaths_.begin(), deaths_.end(), [&suspicion](const Death& one) {
    return std::find(suspicion.deaths.begin(), suspicion.deaths.end(), one.number) == suspicion.deaths.end();
  });
}

std::vector<size_t> FindBlamed(std::span<const DeathWitness> witnesses) {
  const auto is_silent = [](const DeathWitness& w) {
    return w.suspicion->n_silent >= kSilentDeaths + (w.others_died ? 1 : 0);
  };
  const auto is_early = [](const DeathWitness& w) {
    return w.suspicion->n_early >= kEarlyDeaths + (w.others_died ? 1 : 0);
  };
  std::vector<size_t> blamed = OfOneRequest(witnesses, is_silent);
  return blamed.empty() ? OfOneRequest(witnesses, is_early) : blamed;
}

}  // namespace longshelf::router
