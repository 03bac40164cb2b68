#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/checkpoint.h"
#include "testing/fixtures.h"

namespace longshelf::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::filesystem::path WriteBytes(const std::string& bytes) {
  const std::filesystem::path path = testing::MakeTempDir("safetensors") / "model.safetensors";
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

std::string Length(uint64_t n) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes;
}

std::string File(const std::string& header, size_t n_tensor_bytes) {
  return Length(header.size()) + header + std::string(n_tensor_bytes, '\1');
}

// A header with one tensor "a" whose description is `body`, over 16 bytes.
std::string One(const std::string& body) { return File(R"({"a":)" + body + "}", 16); }

std::string Two(const std::string& a, const std::string& b, size_t n_tensor_bytes) {
  return File(R"({"a":)" + a + R"(,"b":)" + b + "}", n_tensor_bytes);
}

std::string Nested(int depth) {
  return std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']');
}

struct HostileFile {
  const char* what;
  std::string bytes;
  std::string name;    // must be named by the message: a tensor, or the file
  std::string reason;  // must be in the message
};

void PrintTo(const HostileFile& file, std::ostream* out) { *out << file.what; }

constexpr const char* kFileName = "model.safetensors";
constexpr const char* kA = "\"a\"";
constexpr const char* kF4 = R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})";

std::vector<HostileFile> HostileLayouts() {
  return {
      {"empty file", "", kFileName, "too short"},
      {"shorter than the length field", std::string(7, '\0'), kFileName, "too short"},
      {"header length 2^64 - 1", Length(~0ULL) + "{}", kFileName, "at most 100000000"},
      {"header length 2^63", Length(1ULL << 63) + "{}", kFileName, "at most 100000000"},
      {"header just over the limit", Length(100'000'001) + "{}", kFileName, "at most 100000000"},
      {"header one byte over the file", Length(3) + "{}", kFileName, "truncated"},
      {"header length 0", Length(0) + "{}", kFileName, "does not begin with '{'"},
      {"header begins with a space", File(R"( {"a":{}})", 0), kFileName, "does not begin with '{'"},
      {"header is a list", File("[]", 0), kFileName, "does not begin with '{'"},
      {"header is not JSON", File("{nope}", 0), kFileName, "not valid JSON"},
      {"header is cut", File(R"({"a":{"dtype":"F32")", 16), kFileName, "not valid JSON"},
      {"header goes on after its object", File(R"({"a":)" + std::string(kF4) + "}}", 16), kFileName, "not valid JSON"},
      {"header is not UTF-8", File("{\"\xff\xfe\":" + std::string(kF4) + "}", 16), kFileName, "UTF-8"},
      {"UTF-8 surrogate half", File("{\"\xed\xa0\x80\":" + std::string(kF4) + "}", 16), kFileName, "UTF-8"},
      {"NUL after the header text", File(std::string("{}\0\0", 4), 0), kFileName, "not valid JSON"},
      {"100,000 levels deep", File(R"({"a":)" + Nested(100000) + "}", 0), kFileName, "nested deeper"},
      {"one level too deep", One(R"({"dtype":"F32","shape":[[4]],"data_offsets":[0,16]})"), kFileName, ""},
      {"trailing bytes", File(R"({"a":)" + std::string(kF4) + "}", 17), kFileName, "trailing bytes"},
      {"no tensors but bytes", File("{}", 8), kFileName, "trailing bytes"},
      {"one byte short", File(R"({"a":)" + std::string(kF4) + "}", 15), kA, "has 15 bytes"},
      {"overlap", Two(kF4, R"({"dtype":"F32","shape":[4],"data_offsets":[8,24]})", 24), "\"b\"", "overlaps"},
      {"same bytes twice", Two(kF4, kF4, 16), "\"b\"", "overlaps"},
      {"hole at the start", File(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}})", 24), kA, "belong to no"},
      {"hole in the middle", Two(kF4, R"({"dtype":"F32","shape":[1],"data_offsets":[20,24]})", 24), "\"b\"",
       "belong to no"},
      {"empty tensor inside another", Two(kF4, R"({"dtype":"F32","shape":[0],"data_offsets":[8,8]})", 16), "\"b\"",
       "overlaps"},
      {"empty tensor past the end", Two(kF4, R"({"dtype":"F32","shape":[0],"data_offsets":[99,99]})", 16), "\"b\"",
       "ends at 99"},
  };
}

std::vector<HostileFile> HostileTensors() {
  return {
      {"duplicate names", File(R"({"a":)" + std::string(kF4) + R"(,"a":)" + kF4 + "}", 16), kA, "given twice"},
      {"duplicate names by escape", File(R"({"a":)" + std::string(kF4) + R"(,"\u0061":)" + kF4 + "}", 16), kA,
       "given twice"},
      {"empty name", File(R"({"":)" + std::string(kF4) + "}", 16), "\"\"", "1 to 1024"},
      {"name of 2000 bytes", File("{\"" + std::string(2000, 'x') + "\":" + kF4 + "}", 16), "xxx", "1 to 1024"},
      {"newline in a name", File(R"({"a\nb":)" + std::string(kF4) + "}", 16), "a\\nb", "control character"},
      {"NUL in a name", File(R"({"a\u0000b":)" + std::string(kF4) + "}", 16), "a\\000b", "control character"},
      {"not an object", One("7"), kA, "not a JSON object"},
      {"null", One("null"), kA, "not a JSON object"},
      {"no dtype", One(R"({"shape":[4],"data_offsets":[0,16]})"), kA, "dtype is missing"},
      {"no shape", One(R"({"dtype":"F32","data_offsets":[0,16]})"), kA, "shape is missing"},
      {"no offsets", One(R"({"dtype":"F32","shape":[4]})"), kA, "data_offsets is missing"},
      {"unknown key", One(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":1})"), kA, "unknown key \"x\""},
      {"key twice", One(R"({"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]})"), kA, "given twice"},
      {"unknown dtype", One(R"({"dtype":"F31","shape":[4],"data_offsets":[0,16]})"), kA, "unknown dtype \"F31\""},
      {"lower-case dtype", One(R"({"dtype":"f32","shape":[4],"data_offsets":[0,16]})"), kA, "unknown dtype"},
      {"dtype is a number", One(R"({"dtype":32,"shape":[4],"data_offsets":[0,16]})"), kA, "dtype is not a string"},
      {"shape is a number", One(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})"), kA, "shape is not a list"},
      {"negative dimension", One(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})"), kA, "shape[0]"},
      {"two negative dimensions", One(R"({"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]})"), kA, "shape[0]"},
      {"fraction as dimension", One(R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})"), kA, "shape[0]"},
      {"dimension over 2^63", One(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,16]})"), kA,
       "shape[0]"},
      {"nine dimensions", One(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,16]})"), kA,
       "more than 8"},
      {"shape product wraps to 4",
       One(R"({"dtype":"F32","shape":[4194305,4194305,211106198978564],"data_offsets":[0,16]})"), kA, "overflows"},
      {"shape times dtype wraps to 16", One(R"({"dtype":"F32","shape":[4611686018427387908],"data_offsets":[0,16]})"),
       kA, "overflows"},
      {"overflow hidden by a zero", One(R"({"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})"),
       kA, "overflows"},
      {"shape larger than the offsets", One(R"({"dtype":"F32","shape":[5],"data_offsets":[0,16]})"), kA,
       "its offsets span 16"},
      {"shape smaller than the offsets", One(R"({"dtype":"F32","shape":[3],"data_offsets":[0,16]})"), kA,
       "its offsets span 16"},
      {"begin after end", One(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})"), kA, "after its end"},
      {"end past the file", One(R"({"dtype":"F32","shape":[5],"data_offsets":[0,20]})"), kA, "has 16 bytes"},
      {"end near 2^64",
       One(R"({"dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,18446744073709551615]})"), kA, "ends at"},
      {"offset over 2^64", One(R"({"dtype":"F32","shape":[4],"data_offsets":[0,99999999999999999999]})"), "", ""},
      {"negative offset", One(R"({"dtype":"F32","shape":[4],"data_offsets":[-16,0]})"), kA, "two integers"},
      {"one offset", One(R"({"dtype":"F32","shape":[4],"data_offsets":[16]})"), kA, "two integers"},
      {"three offsets", One(R"({"dtype":"F32","shape":[4],"data_offsets":[0,8,16]})"), kA, "two integers"},
      {"offset is a string", One(R"({"dtype":"F32","shape":[4],"data_offsets":["0","16"]})"), kA, "two integers"},
      {"metadata is a list", File(R"({"__metadata__":[]})", 0), "__metadata__", "not a JSON object"},
      {"metadata value is a number", File(R"({"__metadata__":{"k":1}})", 0), "__metadata__", "\"k\" is not a string"},
      {"metadata value is an object", File(R"({"__metadata__":{"k":{}}})", 0), "__metadata__", "\"k\" is not a string"},
      {"metadata twice", File(R"({"__metadata__":{},"__metadata__":{}})", 0), "__metadata__", "given twice"},
      {"metadata key twice", File(R"({"__metadata__":{"k":"1","k":"2"}})", 0), "__metadata__", "given twice"},
  };
}

class HostileSafetensors : public ::testing::TestWithParam<HostileFile> {};

TEST_P(HostileSafetensors, AreRefusedWithNameAndReason) {
  const auto file = SafetensorsFile::Open(WriteBytes(GetParam().bytes));
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(file.status().message()),
              AllOf(HasSubstr(kFileName), HasSubstr(GetParam().name), HasSubstr(GetParam().reason)));
}

INSTANTIATE_TEST_SUITE_P(Layout, HostileSafetensors, ::testing::ValuesIn(HostileLayouts()));
INSTANTIATE_TEST_SUITE_P(Tensor, HostileSafetensors, ::testing::ValuesIn(HostileTensors()));

TEST(SafetensorsFile, RefusesWhatIsNotARegularFile) {
  const std::filesystem::path dir = testing::MakeTempDir("special");
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(SafetensorsFile::Open(dir / "pipe").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SafetensorsFile::Open(dir).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SafetensorsFile::Open("/dev/zero").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SafetensorsFile::Open(dir / "absent").status().code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsFile, OfASparseTerabyteWithATinyHeaderIsRefusedWithoutReadingIt) {
  const std::filesystem::path path = WriteBytes(File("{}", 0));
  std::error_code error;
  std::filesystem::resize_file(path, 1ULL << 40, error);
  if (error) {
    GTEST_SKIP() << "the file system has no sparse files this large";
  }
  EXPECT_THAT(std::string(SafetensorsFile::Open(path).status().message()), HasSubstr("trailing bytes"));
}

TEST(SafetensorsFile, ReadsEmptyTensorsAndTensorsInAnyOrder) {
  const auto file = SafetensorsFile::Open(WriteBytes(File(
      R"({"z":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"empty":{"dtype":"F32","shape":[0,7],"data_offsets":[8,8]},)"
      R"("also":{"shape":[0],"data_offsets":[8,8],"dtype":"BF16"},"a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},)"
      R"("scalar":{"dtype":"F8_E4M3","shape":[],"data_offsets":[11,12]}}   )",
      12)));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 5U);
  EXPECT_EQ((*file)->Find("a")->bytes.data(), (*file)->Find("z")->bytes.data() + 8);
  EXPECT_EQ((*file)->Find("scalar")->bytes.size(), 1U);
  EXPECT_TRUE((*file)->Find("empty")->bytes.empty());
  EXPECT_EQ((*file)->Find("absent"), nullptr);
}

// Whatever the header says, views stay inside the file. Mostly for the sanitizers.
TEST(SafetensorsFile, WithRandomDamageIsRefusedOrStaysInsideTheFile) {
  const std::string good = Two(kF4, R"({"dtype":"F8_E8M0","shape":[3,5],"data_offsets":[16,31]})", 31);
  std::mt19937_64 random(20260422);
  const std::filesystem::path path = testing::MakeTempDir("damage") / "model.safetensors";
  constexpr std::string_view kLikely = "0123456789[]{},:\"-.eE \\u\xff";
  int n_opened = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    for (uint64_t n = 1 + random() % 3; n > 0; --n) {
      bytes[random() % (bytes.size() - 31)] =
          random() % 2 == 0 ? kLikely[random() % kLikely.size()] : static_cast<char>(random());
    }
    if (random() % 4 == 0) {
      bytes.resize(random() % bytes.size());
    }
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    const auto file = SafetensorsFile::Open(path);
    if (!file.ok()) {
      EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ++n_opened;
    size_t n_bytes = 0;
    for (const auto& [name, view] : (*file)->tensors()) {
      n_bytes += view.bytes.size();
      EXPECT_EQ(static_cast<size_t>(std::count(view.bytes.begin(), view.bytes.end(), 1)), view.bytes.size());
    }
    EXPECT_EQ(n_bytes, 31U);
  }
  EXPECT_GT(n_opened, 0);
}

TEST(WriteSafetensors, GivesWhatOpenReadsBackAlignedAndWithoutHoles) {
  const std::vector<uint8_t> bytes = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  const std::span<const uint8_t> all(bytes);
  const std::vector<TensorToWrite> tensors = {
      {"layers.0.odd \"name\"", Dtype::kI8, {3}, all.first(3)},
      {"table", Dtype::kI64, {2, 1}, all},
      {"half", Dtype::kBf16, {1, 3}, all.first(6)},
      {"real", Dtype::kF32, {2}, all.subspan(8)},
      {"nothing", Dtype::kF32, {0, 4}, all.first(0)},
      {"scale", Dtype::kF8E8M0, {1}, all.first(1)},
  };
  const std::filesystem::path path = testing::MakeTempDir("write") / "out.safetensors";
  ASSERT_TRUE(WriteSafetensors(path, tensors, {{"format", "pt"}, {"note", "tab\there"}}).ok());
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("note"), "tab\there");
  ASSERT_EQ((*file)->tensors().size(), tensors.size());
  for (const TensorToWrite& tensor : tensors) {
    const TensorView* view = (*file)->Find(tensor.name);
    ASSERT_NE(view, nullptr) << tensor.name;
    EXPECT_EQ(view->dtype, tensor.dtype);
    EXPECT_EQ(view->shape, tensor.shape);
    EXPECT_TRUE(std::equal(view->bytes.begin(), view->bytes.end(), tensor.bytes.begin(), tensor.bytes.end()));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->bytes.data()) % static_cast<uintptr_t>(DtypeBytes(tensor.dtype)), 0U);
  }
}

TEST(WriteSafetensors, RefusesNamesTwiceAndBytesThatDoNotFit) {
  const std::vector<uint8_t> bytes(8);
  const std::filesystem::path path = testing::MakeTempDir("write") / "out.safetensors";
  const std::vector<TensorToWrite> twice = {{"a", Dtype::kI64, {1}, bytes}, {"a", Dtype::kI64, {1}, bytes}};
  const std::vector<TensorToWrite> wrong = {{"a", Dtype::kI64, {2}, bytes}};
  EXPECT_EQ(WriteSafetensors(path, twice, {}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteSafetensors(path, wrong, {}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace longshelf::engine
