#include "backlog.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "common/check.h"

namespace longshelf::router::internal {
namespace {

constexpr ServiceTier kTiers[] = {ServiceTier::kDefault, ServiceTier::kFlex, ServiceTier::kPriority};

}  // namespace

SizeClass SizeClassOf(uint64_t n_tokens) {
  if (n_tokens <= 1024) return SizeClass::kShort;
  if (n_tokens <= 8192) return SizeClass::kMedium;
  return n_tokens <= 65536 ? SizeClass::kLong : SizeClass::kHuge;
}

// As the workers' own (engine/fair_share.h).
double Backlog::Weight(ServiceTier tier) {
  switch (tier) {
    case ServiceTier::kFlex:
      return 1.0;
    case ServiceTier::kDefault:
      return 4.0;
    case ServiceTier::kPriority:
      return 16.0;
  }
  return 1.0;
}

void Backlog::Join(Waiter& waiter, std::string_view tenant, ServiceTier tier) {
  LONGSHELF_CHECK(waiter.flow == nullptr);
  const auto [it, is_new] = flows_.try_emplace({std::string(tenant), tier});
  if (is_new) {
    it->second.weight = Weight(tier);
    it->second.served = clock_;
  }
  ++it->second.n_members;
  waiter.flow = &it->second;
}

void Backlog::Leave(Waiter& waiter) {
  LONGSHELF_CHECK(waiter.flow != nullptr && !waiter.in_line);
  Flow* flow = std::exchange(waiter.flow, nullptr);
  if (--flow->n_members > 0) return;
  flows_.erase(std::find_if(flows_.begin(), flows_.end(), [&](const auto& entry) { return &entry.second == flow; }));
}

void Backlog::Push(Waiter& waiter, uint64_t n_tokens, bool to_front) {
  LONGSHELF_CHECK(waiter.flow != nullptr && !waiter.in_line);
  Flow& flow = *waiter.flow;
  waiter.n_tokens = n_tokens;
  waiter.size = SizeClassOf(n_tokens);
  Line& line = flow.lines[static_cast<size_t>(waiter.size)];
  // Who had nothing to wait for begins where the others are.
  if (flow.n_waiting == 0 && !to_front) flow.served = std::max(flow.served, clock_);
  if (line.waiters.empty() && !to_front) line.served = std::max(line.served, flow.clock);
  waiter.place = line.waiters.insert(to_front ? line.waiters.begin() : line.waiters.end(), &waiter);
  waiter.in_line = true;
  line.n_tokens += n_tokens;
  ++flow.n_waiting;
  ++n_waiting_;
  n_tokens_ += n_tokens;
}

void Backlog::Remove(Waiter& waiter) {
  LONGSHELF_CHECK(waiter.in_line);
  Line& line = waiter.flow->lines[static_cast<size_t>(waiter.size)];
  line.waiters.erase(waiter.place);
  line.n_tokens -= waiter.n_tokens;
  waiter.in_line = false;
  --waiter.flow->n_waiting;
  --n_waiting_;
  n_tokens_ -= waiter.n_tokens;
}

void Backlog::Begin(Waiter& waiter) {
  Flow& flow = *waiter.flow;
  if (waiter.in_line) {
    clock_ = std::max(clock_, flow.served);
    flow.clock = std::max(flow.clock, flow.lines[static_cast<size_t>(waiter.size)].served);
    Remove(waiter);
  }
  ++flow.n_running;
}

void Backlog::Charge(Waiter& waiter, double n_tokens) {
  waiter.flow->served += n_tokens / waiter.flow->weight;
  waiter.flow->lines[static_cast<size_t>(waiter.size)].served += n_tokens;
}

double Backlog::most_running_less_one() const {
  double most = 0;
  for (const auto& [key, flow] : flows_) {
    if (flow.n_running > 0) most = std::max(most, (flow.n_running - 1) / flow.weight);
  }
  return most;
}

bool Backlog::HasUnderShare() const {
  const double most = most_running_less_one();
  return std::any_of(flows_.begin(), flows_.end(), [&](const auto& entry) {
    return entry.second.n_waiting > 0 && (entry.second.n_running + 1) / entry.second.weight <= most;
  });
}

double Backlog::WeightWaitingWith(const Flow* flow, double weight) const {
  double sum = weight;
  for (const auto& [key, other] : flows_) {
    if (&other != flow && other.n_waiting > 0) sum += other.weight;
  }
  return sum;
}

double Backlog::TokensAhead(const Flow& flow, SizeClass size) const {
  const Line& line = flow.lines[static_cast<size_t>(size)];
  const auto n_other_lines = std::count_if(flow.lines.begin(), flow.lines.end(), [&](const Line& other) {
    return &other != &line && !other.waiters.empty();
  });
  return static_cast<double>(line.n_tokens) * static_cast<double>(n_other_lines + 1) *
         WeightWaitingWith(&flow, flow.weight) / flow.weight;
}

double Backlog::TokensAhead(std::string_view tenant, ServiceTier tier, SizeClass size) const {
  const auto it = flows_.find(std::pair(std::string(tenant), tier));
  return it == flows_.end() ? 0 : TokensAhead(it->second, size);
}

uint32_t Backlog::n_members(std::string_view tenant) const {
  uint32_t n = 0;
  for (const ServiceTier tier : kTiers) {
    const auto it = flows_.find(std::pair(std::string(tenant), tier));
    if (it != flows_.end()) n += it->second.n_members;
  }
  return n;
}

uint64_t Backlog::n_tokens(std::string_view tenant) const {
  uint64_t n = 0;
  for (const ServiceTier tier : kTiers) {
    const auto it = flows_.find(std::pair(std::string(tenant), tier));
    if (it == flows_.end()) continue;
    for (const Line& line : it->second.lines) n += line.n_tokens;
  }
  return n;
}

void Backlog::FromTheEnds(const std::function<bool(Waiter&, double)>& sees) const {
  for (const auto& [key, flow] : flows_) {
    for (const Line& line : flow.lines) {
      if (line.waiters.empty()) continue;
      const double ahead = TokensAhead(flow, line.waiters.back()->size);
      const double scale = ahead / static_cast<double>(std::max<uint64_t>(1, line.n_tokens));
      auto n_tokens = static_cast<double>(line.n_tokens);
      for (auto it = line.waiters.rbegin(); it != line.waiters.rend(); ++it) {
        n_tokens -= static_cast<double>((*it)->n_tokens);
        if (!sees(**it, n_tokens * scale)) break;
      }
    }
  }
}

bool Backlog::Pass::IsOpen(Line& line) const {
  if (line.waiters.empty()) return false;
  const auto it = cursors_.find(&line);
  return it == cursors_.end() || (it->second.next != line.waiters.end() && it->second.n_skipped < kLookAhead);
}

Waiter* Backlog::Pass::Next(bool only_under_share) {
  const double most = backlog_.most_running_less_one();
  Flow* best = nullptr;
  const auto order = [](const Flow& flow) { return std::tuple(flow.served, flow.n_running / flow.weight); };
  for (auto& [key, flow] : backlog_.flows_) {
    if (flow.n_waiting == 0) continue;
    if (only_under_share && (flow.n_running + 1) / flow.weight > most) continue;
    if (best != nullptr && order(*best) <= order(flow)) continue;
    if (std::any_of(flow.lines.begin(), flow.lines.end(), [this](Line& line) { return IsOpen(line); })) best = &flow;
  }
  if (best == nullptr) return nullptr;
  Line* next = nullptr;
  for (Line& line : best->lines) {
    if (IsOpen(line) && (next == nullptr || line.served < next->served)) next = &line;
  }
  const auto it = cursors_.find(next);
  return it == cursors_.end() ? next->waiters.front() : *it->second.next++;
}

void Backlog::Pass::Skip(const Waiter& waiter) {
  const Line& line = waiter.flow->lines[static_cast<size_t>(waiter.size)];
  ++cursors_.try_emplace(&line, Cursor{std::next(waiter.place), 0}).first->second.n_skipped;
}

}  // namespace longshelf::router::internal
