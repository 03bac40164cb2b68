#include "char_dfa.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <utility>

#include "common/status.h"

namespace longshelf::grammar {
namespace {

constexpr uint32_t kSurrogatesBegin = 0xD800;
constexpr uint32_t kSurrogatesEnd = 0xDFFF;
constexpr uint32_t kDead = UINT32_MAX;
constexpr uint64_t kNoLimit = UINT64_MAX;
// What determinising one expression may cost, in moves looked at.
constexpr size_t kWorkMax = 4u << 20;
constexpr int kMergeRoundsMax = 48;

absl::Status TooManyStates() {
  return absl::ResourceExhaustedError(absl::StrCat("takes more than ", kDfaStatesMax, " states"));
}

// The ranges between which nothing changes, of ranges that may overlap.
std::vector<CharRange> Cuts(std::vector<CharRange> ranges) {
  std::vector<uint32_t> begins;
  for (const CharRange& range : ranges) {
    begins.push_back(range.lo);
    begins.push_back(range.hi + 1);
  }
  std::sort(begins.begin(), begins.end());
  begins.erase(std::unique(begins.begin(), begins.end()), begins.end());
  std::vector<CharRange> cuts;
  for (size_t i = 0; i + 1 < begins.size(); ++i) cuts.push_back({begins[i], begins[i + 1] - 1});
  return cuts;
}

void AppendEdge(uint32_t lo, uint32_t hi, uint32_t to, std::vector<CharDfa::Edge>& edges) {
  if (!edges.empty() && edges.back().to == to && edges.back().hi + 1 == lo) {
    edges.back().hi = hi;
  } else {
    edges.push_back({lo, hi, to});
  }
}

uint32_t Next(const CharDfa::State& state, uint32_t c) {
  const auto it = std::upper_bound(state.edges.begin(), state.edges.end(), c,
                                   [](uint32_t value, const CharDfa::Edge& edge) { return value < edge.lo; });
  return it == state.edges.begin() || std::prev(it)->hi < c ? kDead : std::prev(it)->to;
}

// Moore's algorithm. States are merged only if it ends within its rounds.
void Merge(std::vector<CharDfa::State>& states) {
  std::vector<uint32_t> group(states.size());
  for (size_t i = 0; i < states.size(); ++i) group[i] = states[i].accepts ? 1 : 0;
  size_t n_groups = 0;
  for (int round = 0; round < kMergeRoundsMax; ++round) {
    std::map<std::pair<uint32_t, std::vector<uint32_t>>, uint32_t> by_behaviour;
    std::vector<uint32_t> next(states.size());
    for (size_t i = 0; i < states.size(); ++i) {
      std::vector<CharDfa::Edge> edges;
      for (const auto& edge : states[i].edges) AppendEdge(edge.lo, edge.hi, group[edge.to], edges);
      std::vector<uint32_t> flat;
      for (const auto& edge : edges) flat.insert(flat.end(), {edge.lo, edge.hi, edge.to});
      const auto id = static_cast<uint32_t>(by_behaviour.size());
      next[i] = by_behaviour.try_emplace({group[i], std::move(flat)}, id).first->second;
    }
    const bool is_done = by_behaviour.size() == n_groups;
    n_groups = by_behaviour.size();
    group = std::move(next);
    if (!is_done) continue;
    std::vector<CharDfa::State> merged(n_groups);
    for (size_t i = 0; i < states.size(); ++i) {
      CharDfa::State& state = merged[group[i]];
      state.accepts = states[i].accepts;
      state.edges.clear();
      for (const auto& edge : states[i].edges) AppendEdge(edge.lo, edge.hi, group[edge.to], state.edges);
    }
    states = std::move(merged);
    return;
  }
}

// Subset construction.
class Determiniser {
 public:
  explicit Determiniser(const CharNfa& nfa) : nfa_(nfa) {}

  absl::StatusOr<std::vector<CharDfa::State>> Run() {
    Intern(Closure({nfa_.start}, /*at_begin=*/true), /*at_begin=*/true);
    for (size_t i = 0; i < sets_.size(); ++i) {
      if (sets_.size() > kDfaStatesMax || work_ > kWorkMax) return TooManyStates();
      AddEdges(i);
    }
    return std::move(states_);
  }
  size_t work() const { return work_; }

 private:
  using Set = std::vector<uint32_t>;  // sorted

  Set Closure(const Set& from, bool at_begin, bool at_end = false) {
    std::vector<bool> seen(nfa_.states.size(), false);
    std::vector<uint32_t> todo = from;
    Set out;
    while (!todo.empty()) {
      const uint32_t at = todo.back();
      todo.pop_back();
      if (seen[at]) continue;
      seen[at] = true;
      out.push_back(at);
      for (const CharNfa::Free& free : nfa_.states[at].free) {
        ++work_;
        if (free.when == CharNfa::When::kAtBegin && !at_begin) continue;
        if (free.when == CharNfa::When::kAtEnd && !at_end) continue;
        todo.push_back(free.to);
      }
    }
    work_ += nfa_.states.size() / 16 + out.size();
    std::sort(out.begin(), out.end());
    return out;
  }

  bool Has(const Set& set, uint32_t state) const { return std::binary_search(set.begin(), set.end(), state); }

  uint32_t Intern(Set set, bool at_begin) {
    // Behind the accepting state anything may follow for ever when it goes on to itself.
    const CharNfa::State& accept = nfa_.states[nfa_.accept];
    if (accept.to == nfa_.accept && accept.chars.ranges() == CharSet::All().ranges() && Has(set, nfa_.accept)) {
      set = {nfa_.accept};
    }
    const auto id = static_cast<uint32_t>(sets_.size());
    const auto [it, is_new] = ids_.try_emplace({set, at_begin}, id);
    if (!is_new) return it->second;
    states_.emplace_back();
    states_.back().accepts = Has(Closure(set, at_begin, /*at_end=*/true), nfa_.accept);
    sets_.push_back(std::move(set));
    return id;
  }

  void AddEdges(size_t from) {
    std::vector<CharRange> ranges;
    const Set set = sets_[from];
    for (const uint32_t state : set) {
      const auto& own = nfa_.states[state].chars.ranges();
      ranges.insert(ranges.end(), own.begin(), own.end());
    }
    for (const CharRange& cut : Cuts(std::move(ranges))) {
      Set next;
      for (const uint32_t state : set) {
        const auto& own = nfa_.states[state].chars.ranges();
        work_ += 1 + own.size() / 8;
        const auto it = std::upper_bound(own.begin(), own.end(), cut.lo,
                                         [](uint32_t value, const CharRange& range) { return value < range.lo; });
        if (it != own.begin() && std::prev(it)->hi >= cut.hi) next.push_back(nfa_.states[state].to);
      }
      if (next.empty()) continue;
      if (work_ > kWorkMax) return;
      const uint32_t to = Intern(Closure(next, /*at_begin=*/false), /*at_begin=*/false);
      AppendEdge(cut.lo, cut.hi, to, states_[from].edges);
    }
  }

  const CharNfa& nfa_;
  std::map<std::pair<Set, bool>, uint32_t> ids_;
  std::vector<Set> sets_;
  std::vector<CharDfa::State> states_;
  size_t work_ = 0;
};

// All pairs of states that texts reach; a state may be missing (kDead) on one side, when `accepts` still may hold.
absl::StatusOr<std::vector<CharDfa::State>> Product(const CharDfa& a, const CharDfa& b, bool is_union) {
  using Pair = std::pair<uint32_t, uint32_t>;
  std::vector<CharDfa::State> states;
  std::vector<Pair> pairs;
  std::map<Pair, uint32_t> ids;
  const auto intern = [&](Pair pair) {
    const auto [it, is_new] = ids.try_emplace(pair, static_cast<uint32_t>(pairs.size()));
    if (is_new) pairs.push_back(pair);
    return it->second;
  };
  const auto accepts = [](const CharDfa& dfa, uint32_t state) { return state != kDead && dfa.states()[state].accepts; };
  const auto next = [](const CharDfa& dfa, uint32_t state, uint32_t c) {
    return state == kDead ? kDead : Next(dfa.states()[state], c);
  };
  if (!is_union && (a.empty() || b.empty())) return states;
  intern({a.empty() ? kDead : 0, b.empty() ? kDead : 0});
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs.size() > kDfaStatesMax) return TooManyStates();
    const auto [x, y] = pairs[i];
    CharDfa::State state;
    state.accepts = is_union ? accepts(a, x) || accepts(b, y) : accepts(a, x) && accepts(b, y);
    std::vector<CharRange> ranges;
    for (const auto& [dfa, at] : {std::pair(&a, x), std::pair(&b, y)}) {
      if (at == kDead) continue;
      for (const auto& edge : dfa->states()[at].edges) ranges.push_back({edge.lo, edge.hi});
    }
    for (const CharRange& cut : Cuts(std::move(ranges))) {
      const Pair to = {next(a, x, cut.lo), next(b, y, cut.lo)};
      const bool is_live = is_union ? to.first != kDead || to.second != kDead : to.first != kDead && to.second != kDead;
      if (is_live) AppendEdge(cut.lo, cut.hi, intern(to), state.edges);
    }
    states.push_back(std::move(state));
  }
  return states;
}

}  // namespace

CharSet::CharSet(std::initializer_list<CharRange> ranges) {
  for (const CharRange& range : ranges) Add(range.lo, range.hi);
}

CharSet CharSet::All() { return {{0, kCodePointMax}}; }

void CharSet::Add(uint32_t lo, uint32_t hi) {
  if (lo < kSurrogatesBegin && hi > kSurrogatesEnd) {
    Add(lo, kSurrogatesBegin - 1);
    Add(kSurrogatesEnd + 1, hi);
    return;
  }
  if (hi >= kSurrogatesBegin && hi <= kSurrogatesEnd) hi = kSurrogatesBegin - 1;
  if (lo >= kSurrogatesBegin && lo <= kSurrogatesEnd) lo = kSurrogatesEnd + 1;
  if (lo > hi) return;
  std::vector<CharRange> out;
  for (const CharRange& range : ranges_) {
    if (range.hi + 1 < lo || range.lo > hi + 1) {
      out.push_back(range);
    } else {
      lo = std::min(lo, range.lo);
      hi = std::max(hi, range.hi);
    }
  }
  const auto at =
      std::upper_bound(out.begin(), out.end(), lo, [](uint32_t value, const CharRange& r) { return value < r.lo; });
  out.insert(at, {lo, hi});
  ranges_ = std::move(out);
}

void CharSet::Add(const CharSet& other) {
  for (const CharRange& range : other.ranges_) Add(range.lo, range.hi);
}

CharSet CharSet::Negated() const {
  CharSet out;
  uint32_t begin = 0;
  for (const CharRange& range : ranges_) {
    if (range.lo > begin) out.Add(begin, range.lo - 1);
    begin = range.hi + 1;
  }
  if (begin <= kCodePointMax) out.Add(begin, kCodePointMax);
  return out;
}

CharDfa CharDfa::Any() { return OfLengths(0, kNoLimit); }

CharDfa CharDfa::OfLengths(uint64_t min, uint64_t max) {
  if (min > max) return CharDfa({});
  const uint64_t n = max == kNoLimit ? min : max;
  std::vector<State> states(n + 1);
  const CharSet all = CharSet::All();
  for (uint64_t i = 0; i <= n; ++i) {
    states[i].accepts = i >= min;
    const uint64_t to = i < n ? i + 1 : n;
    if (i == n && max != kNoLimit) break;
    for (const CharRange& range : all.ranges()) {
      states[i].edges.push_back({range.lo, range.hi, static_cast<uint32_t>(to)});
    }
  }
  return CharDfa(std::move(states));
}

CharDfa CharDfa::OfWords(const std::vector<std::string>& words) {
  std::vector<State> states(words.empty() ? 0 : 1);
  for (const std::string& word : words) {
    uint32_t at = 0;
    for (const uint32_t c : CodePoints(word)) {
      auto& edges = states[at].edges;
      const auto it =
          std::lower_bound(edges.begin(), edges.end(), c, [](const Edge& e, uint32_t value) { return e.lo < value; });
      if (it != edges.end() && it->lo == c) {
        at = it->to;
        continue;
      }
      const auto to = static_cast<uint32_t>(states.size());
      edges.insert(it, {c, c, to});
      states.emplace_back();
      at = to;
    }
    states[at].accepts = true;
  }
  return CharDfa(std::move(states));
}

absl::StatusOr<CharDfa> CharDfa::OfNfa(const CharNfa& nfa, size_t* n_steps) {
  Determiniser determiniser(nfa);
  ASSIGN_OR_RETURN(std::vector<State> states, determiniser.Run());
  if (n_steps != nullptr) *n_steps += determiniser.work();
  return Trimmed(std::move(states));
}

absl::StatusOr<CharDfa> CharDfa::Intersect(const CharDfa& a, const CharDfa& b) {
  ASSIGN_OR_RETURN(std::vector<State> states, Product(a, b, /*is_union=*/false));
  return Trimmed(std::move(states));
}

absl::StatusOr<CharDfa> CharDfa::Unite(const CharDfa& a, const CharDfa& b) {
  ASSIGN_OR_RETURN(std::vector<State> states, Product(a, b, /*is_union=*/true));
  return Trimmed(std::move(states));
}

CharDfa CharDfa::Complement(const CharDfa& a) {
  std::vector<State> states = a.states_;
  if (states.empty()) return Any();
  const auto rest = static_cast<uint32_t>(states.size());  // whatever leaves `a`
  states.emplace_back();
  for (State& state : states) {
    state.accepts = !state.accepts;
    CharSet covered;
    for (const Edge& edge : state.edges) covered.Add(edge.lo, edge.hi);
    const CharSet missing = covered.Negated();
    for (const CharRange& range : missing.ranges()) state.edges.push_back({range.lo, range.hi, rest});
    std::sort(state.edges.begin(), state.edges.end(), [](const Edge& x, const Edge& y) { return x.lo < y.lo; });
  }
  return Trimmed(std::move(states));
}

// Without what does not lead to acceptance, alike states merged, numbered in the order in which they are reached.
CharDfa CharDfa::Trimmed(std::vector<State> states) {
  std::vector<std::vector<uint32_t>> from(states.size());
  for (uint32_t i = 0; i < states.size(); ++i) {
    for (const Edge& edge : states[i].edges) from[edge.to].push_back(i);
  }
  std::vector<bool> is_live(states.size(), false);
  std::vector<uint32_t> todo;
  for (uint32_t i = 0; i < states.size(); ++i) {
    if (states[i].accepts) todo.push_back(i);
  }
  while (!todo.empty()) {
    const uint32_t at = todo.back();
    todo.pop_back();
    if (is_live[at]) continue;
    is_live[at] = true;
    todo.insert(todo.end(), from[at].begin(), from[at].end());
  }
  if (states.empty() || !is_live[0]) return CharDfa({});
  for (State& state : states) std::erase_if(state.edges, [&](const Edge& edge) { return !is_live[edge.to]; });
  Merge(states);
  std::vector<uint32_t> number(states.size(), kDead);
  std::vector<State> out;
  std::deque<uint32_t> reached = {0};
  // Merge() keeps the first state first.
  uint32_t n = 0;
  number[0] = n++;
  while (!reached.empty()) {
    State state = std::move(states[reached.front()]);
    reached.pop_front();
    for (Edge& edge : state.edges) {
      if (number[edge.to] == kDead) {
        number[edge.to] = n++;
        reached.push_back(edge.to);
      }
      edge.to = number[edge.to];
    }
    out.push_back(std::move(state));
  }
  return CharDfa(std::move(out));
}

bool CharDfa::Accepts(std::string_view text) const {
  if (states_.empty()) return false;
  uint32_t at = 0;
  for (const uint32_t c : CodePoints(text)) {
    at = Next(states_[at], c);
    if (at == kDead) return false;
  }
  return states_[at].accepts;
}

std::vector<uint32_t> CodePoints(std::string_view text) {
  std::vector<uint32_t> out;
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return at < text.size() ? static_cast<uint8_t>(text[at]) : uint8_t{0}; };
    const uint32_t first = byte(i);
    const size_t n = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    uint32_t c = n == 1 ? first : first & (0xFFU >> (n + 1));
    for (size_t k = 1; k < n; ++k) c = c << 6 | (byte(i + k) & 0x3FU);
    out.push_back(c);
    i += n;
  }
  return out;
}

void AppendUtf8(uint32_t c, std::string& out) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += {static_cast<char>(0xC0 | c >> 6), tail(0)};
  } else if (c < 0x10000) {
    out += {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
  } else {
    out += {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
  }
}

}  // namespace longshelf::grammar
