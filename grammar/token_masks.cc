#include "token_masks.h"

#include <cstring>
#include <utility>

namespace longshelf::grammar {
namespace {

// Equal for equal positions only.
std::string KeyOf(const Position& position) {
  std::string key(1, position.may_end() ? '\1' : '\0');
  for (const Way& way : position.ways()) {
    const auto n = static_cast<uint32_t>(way.size());
    key.append(reinterpret_cast<const char*>(&n), sizeof n);
    key.append(reinterpret_cast<const char*>(way.data()), way.size() * sizeof(Frame));
  }
  return key;
}

}  // namespace

std::shared_ptr<const TokenBits> TokenMasks::At(const Position& position) {
  // A token has no more symbols than this, so that registers above are as good as any.
  const Position clamped = position.Clamped(vocabulary_.depth() + 1);
  if (places_.size() > kPlacesMax || n_masks_ >= kMasksMax) Forget();
  if (const auto it = ids_.find(KeyOf(clamped)); it != ids_.end() && places_[it->second]->mask != nullptr) {
    return places_[it->second]->mask;
  }
  auto mask = Walk(clamped);
  places_[Intern(clamped)]->mask = mask;
  ++n_masks_;
  return mask;
}

void TokenMasks::Forget() {
  places_.clear();
  ids_.clear();
  n_masks_ = 0;
}

uint32_t TokenMasks::Intern(Position position) {
  if (position.is_dead()) return kDead;
  const auto [it, is_new] = ids_.try_emplace(KeyOf(position), static_cast<uint32_t>(places_.size()));
  if (is_new) {
    places_.push_back(std::make_unique<Place>());
    places_.back()->position = std::move(position);
    places_.back()->next.fill(kUnknown);
  }
  return it->second;
}

uint32_t TokenMasks::Next(uint32_t place, Symbol symbol) {
  uint32_t& next = places_[place]->next[symbol];
  if (next == kUnknown) next = Intern(program_.Next(places_[place]->position, symbol));
  return next;
}

// Through the tree of tokens, past what is below a dead end.
std::shared_ptr<const TokenBits> TokenMasks::Walk(const Position& position) {
  auto bits = std::make_shared<TokenBits>((vocabulary_.size() + 63) / 64, 0);
  const std::vector<Vocabulary::Node>& nodes = vocabulary_.nodes();
  std::vector<uint32_t> path = {Intern(position)};  // places, by depth
  std::vector<Symbol> read;                         // that led to them
  for (size_t i = 0; i < nodes.size();) {
    const Vocabulary::Node& node = nodes[i];
    path.resize(node.depth + size_t{1});
    read.resize(node.depth);
    if (places_.size() >= 2 * kPlacesMax) {
      Forget();
      path = {Intern(position)};
      for (const Symbol symbol : read) path.push_back(Next(path.back(), symbol));
    }
    const uint32_t next = Next(path.back(), node.symbol);
    if (next == kDead) {
      i = node.end;
      continue;
    }
    path.push_back(next);
    read.push_back(node.symbol);
    for (const uint32_t id : vocabulary_.TokensAt(i)) (*bits)[id / 64] |= uint64_t{1} << (id % 64);
    ++i;
  }
  return bits;
}

}  // namespace longshelf::grammar
