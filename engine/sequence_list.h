#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "sequence.h"

namespace longshelf::engine {

// Puts `sequence` where its arrival belongs. List: a deque or vector of unique_ptr<Sequence> in order of arrival.
template <typename List>
void InsertByArrival(List& list, std::unique_ptr<Sequence> sequence) {
  const auto later = [](uint64_t arrival, const std::unique_ptr<Sequence>& other) { return arrival < other->arrival; };
  const auto at = std::upper_bound(list.begin(), list.end(), sequence->arrival, later);
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
