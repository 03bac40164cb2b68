// What KV is when it comes back from a store: the component table, the state of a sequence, the stamp of its tokens.
// What is accepted is written again as it was; a stamp fits the tokens it was made of and nothing else.
#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "common/check.h"
#include "engine/model/kv_layout.h"
#include "engine/model/kv_table.h"
#include "engine/token_stamp.h"
#include "fuzz_input.h"
#include "fuzz_target.h"

namespace longshelf::engine {
namespace {

enum Kind : uint8_t { kTable, kState, kStamp, kKinds };

void ParseTable(std::string_view text) {
  const absl::StatusOr<KvTable> table = KvTable::Parse(text);
  if (!table.ok()) return;
  LONGSHELF_CHECK(table->Serialize() == text);
  LONGSHELF_CHECK(table->components().size() <= KvTable::kComponentsMax);
  size_t offset = 0;
  for (const KvComponent& component : table->components()) {
    LONGSHELF_CHECK(component.offset == offset && component.rows * component.ratio == kBlockTokens);
    LONGSHELF_CHECK(component.row_bytes >= 1 && component.row_bytes <= KvTable::kRowBytesMax);
    LONGSHELF_CHECK(table->Find(component.id, component.layer) == &component);
    offset += static_cast<size_t>(component.rows * component.row_bytes);
  }
  LONGSHELF_CHECK(table->block_bytes() == offset);
  constexpr size_t kClearedBytesMax = 1 << 16;
  if (offset > kClearedBytesMax) return;
  std::vector<std::byte> block(offset, std::byte{1});
  table->ClearTail(block.data(), kBlockTokens);
  LONGSHELF_CHECK(std::ranges::count(block, std::byte{1}) == static_cast<ptrdiff_t>(offset));
  table->ClearTail(block.data(), 0);
  LONGSHELF_CHECK(std::ranges::count(block, std::byte{0}) == static_cast<ptrdiff_t>(offset));
}

// Every kind of layer, as small as can be.
ModelConfig SmallConfig() {
  ModelConfig config;
  config.hidden_size = 32;
  config.n_layers = 3;
  config.head_dim = 16;
  config.rope_dim = 4;
  config.window = 8;
  config.compress_ratios = {0, 4, 128};
  config.index_head_dim = 32;
  return config;
}

const KvLayout& Layout(bool is_native) {
  static const KvLayout native(SmallConfig(), Numerics::kNative, {.n_draft_max = 3});
  static const KvLayout fp32(SmallConfig(), Numerics::kFp32);
  return is_native ? native : fp32;
}

void ImportState(fuzz::FuzzInput input) {
  const KvLayout& layout = Layout(input.Byte() % 2 == 0);
  const int64_t n_tokens = static_cast<int16_t>(input.Short());
  const std::string_view text = input.Rest();
  const auto bytes = std::as_bytes(std::span(text));
  std::vector<std::byte> slot(layout.state_bytes(), std::byte{7});
  const bool fits = n_tokens >= 0 && bytes.size() == layout.StateExportBytes(n_tokens);
  LONGSHELF_CHECK(n_tokens < 0 || layout.StateExportBytes(n_tokens) <= layout.StateExportBytesMax());
  LONGSHELF_CHECK(layout.ImportState(bytes, n_tokens, slot.data()).ok() == fits);
  if (!fits) {
    LONGSHELF_CHECK(std::ranges::all_of(slot, [](std::byte b) { return b == std::byte{7}; }));
    return;
  }
  std::vector<std::byte> exported(bytes.size());
  layout.ExportState(slot.data(), n_tokens, exported);
  LONGSHELF_CHECK(std::ranges::equal(exported, bytes));
}

void ReadStamp(fuzz::FuzzInput input) {
  TokenStamp stamp;
  std::vector<uint32_t> tokens(input.Byte() % (kBlockTokens + 1));
  for (uint32_t& token : tokens) token = input.Short();
  stamp.before = DigestOfSalt(input.Part());
  stamp.tokens = tokens;
  const size_t flipped = input.Short() % kStampBytes;
  const std::string_view text = input.Rest();
  std::vector<std::byte> payload(text.size());
  if (!text.empty()) std::memcpy(payload.data(), text.data(), text.size());
  const EncodedStamp expected = EncodeStamp(stamp);
  if (payload.size() >= kStampBytes) {
    LONGSHELF_CHECK(std::ranges::equal(StampOf(payload), std::span(payload).last(kStampBytes)));
  }
  std::vector<std::byte> stamped = payload;
  stamped.insert(stamped.end(), expected.begin(), expected.end());
  LONGSHELF_CHECK(StampOf(stamped) == expected && std::ranges::equal(WithoutStamp(stamped), payload));
  stamped[payload.size() + flipped] ^= std::byte{1};
  LONGSHELF_CHECK(StampOf(stamped) != expected);
}

std::string StateInput(bool is_native, uint16_t n_tokens) {
  std::string input{static_cast<char>(kState), is_native ? '\0' : '\1', static_cast<char>(n_tokens & 0xff),
                    static_cast<char>(n_tokens >> 8)};
  const size_t n_bytes = Layout(is_native).StateExportBytes(n_tokens);
  for (size_t i = 0; i < n_bytes; ++i) input.push_back(static_cast<char>(i));
  return input;
}

}  // namespace
}  // namespace longshelf::engine

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  using namespace engine;  // all of the input is of the engine
  Seeds seeds;
  for (const bool is_native : {true, false}) {
    seeds.inputs.push_back(std::string(1, kTable) + Layout(is_native).table().Serialize());
    for (const uint16_t n_tokens : {0, 3, 8, 261}) seeds.inputs.push_back(StateInput(is_native, n_tokens));
  }
  std::string stamp{static_cast<char>(kStamp), '\2', '\5', '\0', '\6', '\0'};
  AppendPart("salt", stamp);
  AppendPart("x", stamp);
  const std::vector<uint32_t> tokens = {5, 6};
  std::vector<std::byte> payload(10);
  const EncodedStamp encoded = EncodeStamp({DigestOfSalt("salt"), tokens});
  payload.insert(payload.end(), encoded.begin(), encoded.end());
  stamp.append(reinterpret_cast<const char*>(payload.data()), payload.size());
  seeds.inputs.push_back(stamp);
  seeds.words = {"entries layer=0 ratio=4 rows=64 row_bytes=8 dtype=f32 offset=0\n",
                 " layer=",
                 " ratio=",
                 " rows=",
                 " row_bytes=",
                 " dtype=",
                 " offset=",
                 "\n",
                 "\n\n",
                 "+",
                 "128",
                 "256",
                 "01",
                 "9223372036854775807"};
  return seeds;
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longshelf;  // the entry point has no namespace of its own
  fuzz::FuzzInput input(data, size);
  switch (input.Byte() % engine::kKinds) {
    case engine::kTable:
      engine::ParseTable(input.Rest());
      break;
    case engine::kState:
      engine::ImportState(input);
      break;
    default:
      engine::ReadStamp(input);
  }
  return 0;
}
