#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longshelf::engine {

// Tokens per KV block: two of lcm(4, 128).
inline constexpr int64_t kBlockTokens = 256;

// One row of the component table: where a layer's records lie inside a block. Entry e of a sequence, in row e % rows of
// block e / rows, stands for the tokens [e * ratio, (e + 1) * ratio).
struct KvComponent {
  std::string id;     // kEntries, kIndexKeys, or whatever another model keeps
  int64_t layer = 0;  // a layer has one component of an id
  int ratio = 1;      // tokens per entry; divides kBlockTokens
  int64_t rows = 0;   // entries per block = kBlockTokens / ratio
  int64_t row_bytes = 0;
  std::string dtype;  // what a row is made of
  size_t offset = 0;  // of row 0 in the block
  bool operator==(const KvComponent&) const = default;
};
inline constexpr std::string_view kEntries = "entries";
inline constexpr std::string_view kIndexKeys = "index_keys";

// What a KV block is made of, as data: its size, what of it is live after n tokens, and its name in the fingerprint
// follow from the rows of this table. Who stores and moves blocks needs to know nothing of it.
class KvTable {
 public:
  static constexpr int64_t kRowBytesMax = int64_t{1} << 20;
  static constexpr size_t kComponentsMax = 4096;

  // Behind those that are there. INVALID_ARGUMENT: names the field and its bound; ids and dtypes are of a-z, 0-9, _
  // and +.
  absl::Status Add(std::string_view id, int64_t layer, int64_t ratio, int64_t row_bytes, std::string_view dtype);

  const std::vector<KvComponent>& components() const { return components_; }
  // Null when there is none. By search: keep the answer.
  const KvComponent* Find(std::string_view id, int64_t layer) const;
  size_t block_bytes() const { return block_bytes_; }
  // Zeroes the records of a block that lie at or past n_tokens_in_block, so that a partly filled block has one form.
  void ClearTail(std::byte* block, int64_t n_tokens_in_block) const;

  // One line for each component. Stable: hashed into the KV fingerprint.
  std::string Serialize() const;
  // INVALID_ARGUMENT: not what Serialize() gives of any table.
  static absl::StatusOr<KvTable> Parse(std::string_view text);
  bool operator==(const KvTable&) const = default;

 private:
  std::vector<KvComponent> components_;
  size_t block_bytes_ = 0;
};

}  // namespace longshelf::engine
