#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "sequence.h"

namespace longshelf::engine {

// List: a deque or vector of unique_ptr<Sequence> in order of arrival.
template <typename List>
auto FirstAfter(List& list, uint64_t arrival) {
  const auto later = [](uint64_t before, const std::unique_ptr<Sequence>& other) { return before < other->arrival; };
  return std::upper_bound(list.begin(), list.end(), arrival, later);
}

// Puts `sequence` where its arrival belongs.
template <typename List>
void InsertByArrival(List& list, std::unique_ptr<Sequence> sequence) {
  const auto at = FirstAfter(list, sequence->arrival);
  list.insert(at, std::move(sequence));
}

// Null when it is not there.
template <typename List>
std::unique_ptr<Sequence> TakeFrom(List& list, const Sequence& sequence) {
  const auto is_it = [&](const std::unique_ptr<Sequence>& other) { return other.get() == &sequence; };
  const auto it = std::find_if(list.begin(), list.end(), is_it);
  if (it == list.end()) return nullptr;
  std::unique_ptr<Sequence> out = std::move(*it);
  list.erase(it);
  return out;
}

}  // namespace longshelf::engine
