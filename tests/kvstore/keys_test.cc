#include "kvstore/keys.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "kvstore/object.h"

namespace longshelf::kvstore {
namespace {

template <typename Bytes>
std::string Hex(const Bytes& bytes) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

std::array<uint8_t, 32> Ascending() {
  std::array<uint8_t, 32> out;
  std::iota(out.begin(), out.end(), uint8_t{0});
  return out;
}

std::string_view View(const std::array<uint8_t, 32>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Computed with Python's hashlib and hmac from the definitions in keys.h. A change here orphans every stored object.
TEST(Keys, EqualTheVectorsOfAnIndependentImplementation) {
  const auto salt = NamespaceSalt("tenant-secret", "team-a");
  EXPECT_EQ(Hex(salt), "754bb29441ff490f6c96e90a2f1e1b87b63f0e999b1a8be629e90df80bc88173");
  const BlockKey root = ChainRoot(Ascending(), View(salt));
  EXPECT_EQ(Hex(root), "a2c9042afef4b4538efeb6b5d1e2783229f7c83149677d801b26ad1d76681089");
  EXPECT_EQ(Hex(ChainRoot(Ascending(), "")), "3e87fbd4f146c96a0c97a5db8bc7c49321082fa4de8463f6e9ca1e3ce2fc8a0c");
  std::vector<uint32_t> tokens(256);
  std::iota(tokens.begin(), tokens.end(), 0u);
  const BlockKey first = ChainNext(root, tokens);
  EXPECT_EQ(Hex(first), "14e236f3c7a8f2705847d0facbd2bf9e510af0bf203d32e53384c43c24993b8e");
  const std::vector<uint32_t> tail = {129279, 0, 7};
  EXPECT_EQ(Hex(ChainNext(first, tail)), "87264225bd85bbaea6569efda80842eb7433ef47357b51af7f4eb7b649d1facb");
  EXPECT_EQ(Hex(ChainNext(root, {})), "3e99244fdea533c1046904a0575c07fd1b976f860093acbb204b1aa4dd2e3315");
}

TEST(Keys, DifferForEveryPrefixSaltAndFingerprint) {
  std::set<BlockKey> seen;
  std::vector<uint32_t> tokens(300, 5);
  for (int salt = 0; salt < 4; ++salt) {
    std::array<uint8_t, 32> fingerprint = Ascending();
    fingerprint[31] ^= static_cast<uint8_t>(salt & 1);
    const BlockKey root = ChainRoot(fingerprint, salt < 2 ? "a" : "b");
    EXPECT_TRUE(seen.insert(root).second);
    for (size_t n = 0; n <= tokens.size(); ++n) {
      EXPECT_TRUE(seen.insert(ChainNext(root, std::span(tokens).first(n))).second) << n;
    }
  }
}

TEST(Keys, NameTheExtentThatATokenLiesIn) {
  const BlockKey root = ChainRoot(Ascending(), "");
  std::vector<BlockKey> blocks(3 * kExtentBlocks);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i][0] = static_cast<uint8_t>(i), blocks[i][1] = i / 256 + 1;
  EXPECT_EQ(ExtentOf(root, {}, 1), root);
  EXPECT_EQ(ExtentOf(root, blocks, kExtentTokens), root)
      << "the last block of an extent, and the checkpoint at its end";
  EXPECT_EQ(ExtentOf(root, blocks, kExtentTokens + 1), blocks[kExtentBlocks - 1]);
  EXPECT_EQ(ExtentOf(root, blocks, 2 * kExtentTokens), blocks[kExtentBlocks - 1]);
  EXPECT_EQ(ExtentOf(root, std::span(blocks).first(2 * kExtentBlocks), 2 * kExtentTokens + 255),
            blocks[2 * kExtentBlocks - 1]);
}

TEST(Digest, EqualsThePublishedValueOfTheEmptyInputAndSeesEveryBit) {
  EXPECT_EQ(Hex(DigestOf({})), "99aa06d3014798d86001c324468d497f");
  std::vector<std::byte> bytes(333);
  const Digest whole = DigestOf(bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_NE(DigestOf(bytes), whole);
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

}  // namespace
}  // namespace longshelf::kvstore
