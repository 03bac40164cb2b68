#include "program_builder.h"

#include <algorithm>
#include <array>
#include <deque>

#include "tokenizer/chat_markup.h"
#include "tokenizer/json_text.h"

namespace longshelf::grammar {
namespace {

using ByteRanges = std::vector<std::pair<uint8_t, uint8_t>>;

constexpr std::array<std::pair<std::string_view, Symbol>, 2> kMarkers = {{
    {tokenizer::protocol::kDsml, kDsmlSymbol},
    {tokenizer::protocol::kThinkEnd, kThinkEndSymbol},
}};

std::vector<uint8_t> Utf8Of(uint32_t c) {
  std::string text;
  AppendUtf8(c, text);
  return {text.begin(), text.end()};
}

}  // namespace

void ForEachUtf8Range(uint32_t lo, uint32_t hi, const std::function<void(const ByteRanges&)>& fn) {
  for (const uint32_t last : {0x7FU, 0x7FFU, 0xFFFFU}) {
    if (lo > last || hi <= last) continue;
    ForEachUtf8Range(lo, last, fn);
    lo = last + 1;
  }
  const size_t n = Utf8Of(lo).size();
  for (size_t i = 1; i < n; ++i) {
    // Whole blocks of 64^i, what is before the first, and what is behind the last.
    const uint32_t mask = (1U << (6 * i)) - 1;
    if ((lo & ~mask) == (hi & ~mask)) continue;
    if ((lo & mask) != 0) {
      ForEachUtf8Range(lo, lo | mask, fn);
      return ForEachUtf8Range((lo | mask) + 1, hi, fn);
    }
    if ((hi & mask) != mask) {
      ForEachUtf8Range(lo, (hi & ~mask) - 1, fn);
      return ForEachUtf8Range(hi & ~mask, hi, fn);
    }
  }
  const std::vector<uint8_t> first = Utf8Of(lo);
  const std::vector<uint8_t> last = Utf8Of(hi);
  ByteRanges ranges;
  for (size_t i = 0; i < n; ++i) ranges.emplace_back(first[i], last[i]);
  fn(ranges);
}

std::string QuotedString(std::string_view text) {
  std::string out;
  tokenizer::AppendJsonString(text, out);
  return out;
}

uint32_t ProgramBuilder::NewState() {
  if (states_.size() >= kProgramStatesMax) {
    is_full_ = true;
    return 0;
  }
  states_.emplace_back();
  return static_cast<uint32_t>(states_.size() - 1);
}

void ProgramBuilder::Add(uint32_t from, Move move) {
  if (!is_full_) states_[from].push_back(move);
}

uint32_t ProgramBuilder::Behind(uint32_t from, Move::Kind kind, uint32_t a, uint32_t b) {
  const uint32_t to = NewState();
  Add(from, {kind, to, a, b});
  return to;
}

uint32_t ProgramBuilder::Bytes(uint32_t from, std::string_view bytes) {
  for (const char byte : bytes) {
    const uint32_t to = NewState();
    const auto symbol = static_cast<uint8_t>(byte);
    Symbols(from, symbol, symbol, to);
    from = to;
  }
  return from;
}

uint32_t ProgramBuilder::Text(uint32_t from, std::string_view text) {
  while (!text.empty()) {
    size_t at = text.size();
    const std::pair<std::string_view, Symbol>* marker = nullptr;
    for (const auto& each : kMarkers) {
      if (const size_t found = text.find(each.first); found < at) {
        at = found;
        marker = &each;
      }
    }
    from = Bytes(from, text.substr(0, at));
    if (marker == nullptr) break;
    const uint32_t to = NewState();
    Symbols(from, marker->second, marker->second, to);
    Words(from, {std::string(marker->first)}, to);  // where the vocabulary has no such token
    text.remove_prefix(at + marker->first.size());
    from = to;
  }
  return from;
}

void ProgramBuilder::Words(uint32_t from, const std::vector<std::string>& words, uint32_t to) {
  std::map<std::pair<uint32_t, char>, uint32_t> children;
  for (const std::string& word : words) {
    uint32_t at = from;
    for (const char byte : word) {
      const auto [it, is_new] = children.try_emplace({at, byte}, 0);
      if (is_new) {
        it->second = NewState();
        Symbols(at, static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), it->second);
      }
      at = it->second;
    }
    Jump(at, to);
  }
}

void ProgramBuilder::ByteRanges(uint32_t from, std::vector<std::pair<uint8_t, uint8_t>> ranges, uint32_t to) {
  const auto [lo, hi] = ranges.front();
  ranges.erase(ranges.begin());
  if (ranges.empty()) return Symbols(from, lo, hi, to);
  const auto [it, is_new] = tails_.try_emplace({ranges, to}, 0);
  if (is_new) {
    const uint32_t tail = NewState();
    it->second = tail;
    ByteRanges(tail, std::move(ranges), to);
    Symbols(from, lo, hi, tail);
  } else {
    Symbols(from, lo, hi, it->second);
  }
}

void ProgramBuilder::CharRange(uint32_t from, uint32_t lo, uint32_t hi, uint32_t to) {
  ForEachUtf8Range(lo, hi, [&](const auto& ranges) { ByteRanges(from, ranges, to); });
}

// Each character has one form: itself, or the escape that it needs.
void ProgramBuilder::QuotedRange(uint32_t from, uint32_t lo, uint32_t hi, uint32_t to) {
  static constexpr uint32_t kEscaped[] = {'"', '\\'};
  for (uint32_t c = lo; c < 0x20 && c <= hi; ++c) {
    const std::string quoted = QuotedString(std::string(1, static_cast<char>(c)));
    std::vector<std::pair<uint8_t, uint8_t>> bytes;
    for (const char byte : std::string_view(quoted).substr(1, quoted.size() - 2)) {
      bytes.emplace_back(static_cast<uint8_t>(byte), static_cast<uint8_t>(byte));
    }
    ByteRanges(from, std::move(bytes), to);
  }
  lo = std::max(lo, 0x20U);
  for (const uint32_t c : kEscaped) {
    if (lo > c || hi < c) continue;
    if (lo < c) CharRange(from, lo, c - 1, to);
    ByteRanges(from, {{'\\', '\\'}, {static_cast<uint8_t>(c), static_cast<uint8_t>(c)}}, to);
    lo = c + 1;
  }
  if (lo <= hi) CharRange(from, lo, hi, to);
}

void ProgramBuilder::Chars(uint32_t from, const CharDfa& dfa, StringForm form, bool counted, uint32_t to) {
  std::vector<uint32_t> states(dfa.states().size());
  for (uint32_t& state : states) state = NewState();
  if (states.empty()) return;
  Jump(from, states[0]);
  for (size_t i = 0; i < states.size() && !is_full_; ++i) {
    const CharDfa::State& state = dfa.states()[i];
    if (state.accepts) Jump(counted ? Behind(states[i], Move::Kind::kNeedAtMost, 0) : states[i], to);
    if (state.edges.empty()) continue;
    const uint32_t reads = counted ? Behind(states[i], Move::Kind::kTake) : states[i];
    for (const CharDfa::Edge& edge : state.edges) {
      if (form == StringForm::kQuoted) {
        QuotedRange(reads, edge.lo, edge.hi, states[edge.to]);
      } else {
        CharRange(reads, edge.lo, edge.hi, states[edge.to]);
      }
    }
  }
}

void ProgramBuilder::Number(uint32_t from, const NumberDfa& dfa, uint32_t to) {
  std::vector<uint32_t> states(dfa.states.size());
  for (uint32_t& state : states) state = NewState();
  if (states.empty()) return;
  Jump(from, states[0]);
  for (size_t i = 0; i < states.size(); ++i) {
    if (dfa.states[i].accepts) Jump(states[i], to);
    for (const auto& [c, next] : dfa.states[i].edges) {
      Symbols(states[i], static_cast<uint8_t>(c), static_cast<uint8_t>(c), states[next]);
    }
  }
}

// Aho and Corasick's automaton.
std::vector<uint32_t> ProgramBuilder::FreeBytes(uint32_t from, const std::vector<std::string_view>& forbidden) {
  struct Node {
    std::array<uint32_t, 256> next{};  // 0: none; of the root, itself
    uint32_t suffix = 0;
    bool is_word = false;
  };
  std::vector<Node> nodes(1);
  for (const std::string_view word : forbidden) {
    uint32_t at = 0;
    for (const char c : word) {
      const auto byte = static_cast<uint8_t>(c);
      if (nodes[at].next[byte] == 0) {
        nodes[at].next[byte] = static_cast<uint32_t>(nodes.size());
        nodes.emplace_back();
      }
      at = nodes[at].next[byte];
    }
    nodes[at].is_word = true;
  }
  std::deque<uint32_t> order = {0};
  while (!order.empty()) {
    const uint32_t at = order.front();
    order.pop_front();
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t child = nodes[at].next[byte];
      const uint32_t other = at == 0 ? 0 : nodes[nodes[at].suffix].next[byte];
      if (child == 0) {
        nodes[at].next[byte] = other;
        continue;
      }
      nodes[child].suffix = other;
      nodes[child].is_word = nodes[child].is_word || nodes[other].is_word;
      order.push_back(child);
    }
  }
  std::vector<uint32_t> states(nodes.size());
  for (uint32_t& state : states) state = NewState();
  std::vector<uint32_t> used;
  for (size_t i = 0; i < nodes.size() && !is_full_; ++i) {
    if (nodes[i].is_word) continue;
    used.push_back(states[i]);
    for (uint32_t byte = 0; byte < 256;) {
      const uint32_t next = nodes[i].next[byte];
      uint32_t end = byte;
      while (end + 1 < 256 && nodes[i].next[end + 1] == next) ++end;
      if (!nodes[next].is_word) Symbols(states[i], static_cast<Symbol>(byte), static_cast<Symbol>(end), states[next]);
      byte = end + 1;
    }
  }
  Jump(from, states[0]);
  return used;
}

}  // namespace longshelf::grammar
