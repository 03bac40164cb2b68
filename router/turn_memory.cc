#include "router/turn_memory.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tokenizer/json_text.h"

namespace longshelf::router {
namespace {

using tokenizer::ChatMessage;
using tokenizer::JsonKind;
using tokenizer::JsonText;

constexpr double kExactInDouble = 9007199254740992.0;  // 2^53
constexpr tokenizer::JsonLimits kArgumentLimits{.bytes_max = 64u << 20, .depth_max = 512, .values_max = 1u << 20};
constexpr uint64_t kTurnOverheadBytes = 256;

// Members in order of their names, numbers by their value: 1.0 is 1.
void AppendCanonical(const JsonText::Value& value, std::string& out) {
  switch (value.kind()) {
    case JsonKind::kObject: {
      JsonText::Members members = value.AsMembers();
      std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      out += '{';
      for (const auto& [name, member] : members) {
        tokenizer::AppendJsonString(name, out);
        AppendCanonical(member, out);
      }
      out += '}';
      break;
    }
    case JsonKind::kArray:
      out += '[';
      for (const JsonText::Value& element : value.Elements()) {
        AppendCanonical(element, out);
        out += ',';
      }
      out += ']';
      break;
    case JsonKind::kReal: {
      double real = 0;
      const std::string_view raw = value.raw();
      const bool is_read = absl::SimpleAtod(absl::string_view(raw.data(), raw.size()), &real);
      if (is_read && std::trunc(real) == real && std::abs(real) < kExactInDouble) {
        absl::StrAppend(&out, static_cast<int64_t>(real));
      } else {
        value.DumpTo(out);
      }
      break;
    }
    default:
      value.DumpTo(out);
  }
}

std::string CanonicalArguments(const std::string& arguments) {
  const auto json = JsonText::Parse(arguments, kArgumentLimits);
  if (!json.ok()) return arguments;
  std::string out;
  AppendCanonical(json->root(), out);
  return out;
}

// Every part behind its length: no two turns spell the same.
void AppendPart(std::string_view part, std::string& out) {
  absl::StrAppend(&out, part.size(), ":", absl::string_view(part.data(), part.size()));
}

// Of an id its unguessable part: each API has a prefix of its own.
std::string_view IdOf(const tokenizer::ChatToolCall& call) {
  const std::string_view id = call.id;
  const size_t prefix = id.rfind('_');
  return prefix == std::string_view::npos ? id : id.substr(prefix + 1);
}

std::string KeyOf(const std::string& namespace_id, const ChatMessage& turn) {
  std::string text;
  AppendPart(namespace_id, text);
  AppendPart(turn.content.value_or(""), text);
  for (const tokenizer::ChatToolCall& call : turn.tool_calls) {
    AppendPart(IdOf(call), text);
    AppendPart(call.name, text);
    AppendPart(CanonicalArguments(call.arguments), text);
  }
  std::string key(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(key.data()));
  return key;
}

bool IsEmpty(const ChatMessage& turn) { return turn.content.value_or("").empty() && turn.tool_calls.empty(); }

}  // namespace

uint64_t TurnMemory::Turn::n_bytes() const {
  return kTurnOverheadBytes + key.size() + reasoning.size() + text.size() + sizeof(uint32_t) * tokens.size();
}

void TurnMemory::Remember(const std::string& namespace_id, const ChatMessage& turn, std::string text,
                          std::vector<uint32_t> tokens) {
  if (IsEmpty(turn)) return;
  Turn entry{KeyOf(namespace_id, turn), turn.reasoning_content, std::move(text), std::move(tokens)};
  const std::lock_guard lock(mutex_);
  if (entry.n_bytes() > n_bytes_max_) return;
  if (const auto found = by_key_.find(entry.key); found != by_key_.end()) {
    n_bytes_ -= found->second->n_bytes();
    turns_.erase(found->second);
    by_key_.erase(found);
  }
  n_bytes_ += entry.n_bytes();
  turns_.push_front(std::move(entry));
  by_key_.emplace(turns_.front().key, turns_.begin());
  while (n_bytes_ > n_bytes_max_) {
    n_bytes_ -= turns_.back().n_bytes();
    by_key_.erase(turns_.back().key);
    turns_.pop_back();
  }
}

size_t TurnMemory::Recall(const std::string& namespace_id, std::vector<ChatMessage>& messages) {
  size_t n_found = 0;
  for (ChatMessage& message : messages) {
    if (message.role != "assistant" || message.wo_eos || IsEmpty(message)) continue;
    const std::string key = KeyOf(namespace_id, message);
    const std::lock_guard lock(mutex_);
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) continue;
    turns_.splice(turns_.begin(), turns_, found->second);
    const Turn& turn = *found->second;
    if (!message.reasoning_content.empty() && message.reasoning_content != turn.reasoning) continue;
    message.sampled_text = turn.text;
    message.sampled_tokens = turn.tokens;
    ++n_found;
  }
  return n_found;
}

uint64_t TurnMemory::n_bytes() const {
  const std::lock_guard lock(mutex_);
  return n_bytes_;
}

}  // namespace longshelf::router
