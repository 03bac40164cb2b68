#include "tokenizer/tokenizer.h"
#include "utf8.h"

namespace longshelf::tokenizer {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer), skip_special_(skip_special) {}

void StreamDecoder::PushTo(uint32_t id, std::string& out) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return;
  const std::string_view bytes = tokenizer_->TokenBytes(id);
  if (pending_.empty()) {
    pending_.assign(bytes.substr(internal::AppendLossy(bytes, out)));
    return;
  }
  pending_.append(bytes);
  pending_.erase(0, internal::AppendLossy(pending_, out));
}

std::string StreamDecoder::Push(uint32_t id) {
  std::string out;
  PushTo(id, out);
  return out;
}

std::string StreamDecoder::Finish() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(internal::kReplacementCharacter);
}

}  // namespace longshelf::tokenizer
