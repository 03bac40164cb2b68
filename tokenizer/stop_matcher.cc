#include <algorithm>
#include <deque>
#include <utility>

#include "tokenizer/tokenizer.h"

namespace longshelf::tokenizer {

// Aho-Corasick: the state is the longest suffix of the text that begins a stop string, and its depth is exactly what
// must be held back.
StopMatcher::StopMatcher(const std::vector<std::string>& stops) : nodes_(1) {
  for (const std::string& stop : stops) {
    if (stop.empty()) continue;
    uint32_t node = 0;
    for (const char byte : stop) node = AddChild(node, byte);
    nodes_[node].stop_bytes = nodes_[node].depth;
  }
  Link();
}

uint32_t StopMatcher::Child(uint32_t node, char byte) const {
  for (const auto& [label, child] : nodes_[node].children) {
    if (label == byte) return child;
  }
  return 0;
}

uint32_t StopMatcher::AddChild(uint32_t node, char byte) {
  if (const uint32_t child = Child(node, byte); child != 0) return child;
  const auto child = static_cast<uint32_t>(nodes_.size());
  Node& added = nodes_.emplace_back();
  added.depth = nodes_[node].depth + 1;
  nodes_[node].children.emplace_back(byte, child);
  return child;
}

uint32_t StopMatcher::Next(uint32_t node, char byte) const {
  while (true) {
    if (const uint32_t child = Child(node, byte); child != 0) return child;
    if (node == 0) return 0;
    node = nodes_[node].suffix;
  }
}

void StopMatcher::Link() {
  std::deque<uint32_t> breadth_first{0};
  while (!breadth_first.empty()) {
    const uint32_t node = breadth_first.front();
    breadth_first.pop_front();
    for (const auto& [byte, child] : nodes_[node].children) {
      nodes_[child].suffix = node == 0 ? 0 : Next(nodes_[node].suffix, byte);
      if (nodes_[child].stop_bytes == 0) nodes_[child].stop_bytes = nodes_[nodes_[child].suffix].stop_bytes;
      breadth_first.push_back(child);
    }
  }
}

StopMatcher::Result StopMatcher::Push(std::string_view text) {
  Result result;
  if (stopped_) {
    result.stopped = true;
    return result;
  }
  for (size_t i = 0; i < text.size(); ++i) {
    state_ = Next(state_, text[i]);
    if (const size_t stop_bytes = nodes_[state_].stop_bytes; stop_bytes != 0) {
      held_.append(text.substr(0, i + 1));
      found_ = held_.substr(held_.size() - stop_bytes);
      held_.resize(held_.size() - stop_bytes);
      stopped_ = true;
      result.stopped = true;
      result.text = std::exchange(held_, {});
      return result;
    }
  }
  held_.append(text);
  const size_t hold = nodes_[state_].depth;
  result.text = held_.substr(0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
  return result;
}

std::string StopMatcher::Finish() {
  state_ = 0;
  return std::exchange(held_, {});
}

}  // namespace longshelf::tokenizer
