// tokenizer.json. A file that is accepted has no id and no text twice, merges of pieces that it has, and a piece for
// every byte.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "common/check.h"
#include "fuzz_input.h"
#include "fuzz_target.h"
#include "memory_file.h"
#include "testing/fixtures.h"
#include "tokenizer_file.h"

namespace longshelf::tokenizer::internal {
namespace {

void CheckIds(const TokenizerFile& file) {
  std::set<uint32_t> ids;
  for (const auto& token : file.tokens) LONGSHELF_CHECK(ids.insert(token.id).second);
  std::set<std::string_view> contents;
  for (const auto& added : file.added_tokens) {
    ids.insert(added.id);  // it may be in the vocabulary too
    LONGSHELF_CHECK(!added.content.empty() && contents.insert(added.content).second);
  }
  LONGSHELF_CHECK(*ids.rbegin() + 1 == file.vocab_size && file.vocab_size <= TokenizerLimits().ids_max);
  for (const auto& merge : file.merges) {
    LONGSHELF_CHECK(ids.contains(merge.left) && ids.contains(merge.right) && ids.contains(merge.merged));
  }
}

void CheckBytes(const TokenizerFile& file) {
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto token =
        std::ranges::find(file.tokens, file.byte_tokens[byte], [](const TokenizerFile::Token& t) { return t.id; });
    LONGSHELF_CHECK(token != file.tokens.end() && token->byte_level);
    LONGSHELF_CHECK(token->bytes == std::string(1, static_cast<char>(byte)));
  }
}

void Read(std::string_view text) {
  const fuzz::MemoryFile content(text);
  const absl::StatusOr<TokenizerFile> file = ReadTokenizerFile(content.path());
  if (!file.ok()) {
    LONGSHELF_CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  CheckIds(*file);
  CheckBytes(*file);
}

// The demo model's, with no more of its vocabulary than must be there.
nlohmann::ordered_json SmallFile() {
  std::ifstream in(longshelf::testing::ModelPath("demo") / "tokenizer.json");
  nlohmann::ordered_json file = nlohmann::ordered_json::parse(in);
  nlohmann::ordered_json& model = file["model"];
  nlohmann::ordered_json merges = nlohmann::ordered_json::array();
  nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
  for (size_t i = 0; i < 3; ++i) merges.push_back(model["merges"][i]);
  for (const auto& [piece, id] : model["vocab"].items()) {
    if (id < 300) vocab[piece] = id;
  }
  model["merges"] = merges;
  model["vocab"] = vocab;
  return file;
}

}  // namespace
}  // namespace longshelf::tokenizer::internal

namespace longshelf::fuzz {

Seeds MakeSeeds() {
  nlohmann::ordered_json file = tokenizer::internal::SmallFile();
  Seeds seeds{
      .inputs = {file.dump()},
      .words = {"\"id\":", "1048576", "1048575", "-1", "0", "[\"a\",\"b\"]", "\"a b\"", "true", "null", "\"\"", "{}",
                "[]", "\\u0120", "Ġ", "\"special\":", "\"content\":", "18446744073709551615", "\"single_word\":true,"}};
  // Its parts move together when the whole is mutated seldom.
  file["added_tokens"] = nlohmann::ordered_json::array();
  seeds.inputs.push_back(file.dump());
  return seeds;
}

}  // namespace longshelf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longshelf::tokenizer::internal::Read(longshelf::fuzz::FuzzInput(data, size).Rest());
  return 0;
}
