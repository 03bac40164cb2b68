#include <gtest/gtest.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "body_reader.h"
#include "content_coding.h"

namespace longshelf::router {
namespace {

struct Decoded {
  ChunkedDecoder::State state = ChunkedDecoder::State::kMore;
  std::string body;
  size_t n_used = 0;
};

// In pieces of `n` bytes.
Decoded Decode(const std::string& bytes, size_t n = SIZE_MAX) {
  Decoded out;
  ChunkedDecoder decoder;
  while (out.n_used < bytes.size() && out.state == ChunkedDecoder::State::kMore) {
    size_t n_used = 0;
    out.state = decoder.Push(
        std::string_view(bytes).substr(out.n_used, n),
        [&](std::string_view data) {
          out.body += data;
          return true;
        },
        n_used);
    out.n_used += n_used;
  }
  return out;
}

TEST(ChunkedDecoder, TakesExtensionsAndTrailersHoweverTheyArrive) {
  const std::string coded =
      "3\r\nabc\r\n00A;name=value;flag\r\n0123456789\r\n1 ;a=\"b;c\"\r\nx\r\n0;last\r\nX-Sum: 1\r\nY:\r\n\r\n";
  for (const size_t n : {size_t{1}, size_t{2}, size_t{7}, coded.size() + 4}) {
    const Decoded decoded = Decode(coded + "GET ", n);
    EXPECT_EQ(decoded.state, ChunkedDecoder::State::kDone);
    EXPECT_EQ(decoded.body, "abc0123456789x");
    EXPECT_EQ(decoded.n_used, coded.size());
  }
}

TEST(ChunkedDecoder, SEC_13_RefusesWhatIsNoChunk) {
  for (const char* coded : {"zz\r\nabc\r\n",   "-1\r\n",      "+1\r\na\r\n",        "0x1\r\na\r\n",
                            "3\r\nabcdef\r\n", "3\r\nabc\n",  "3\nabc\r\n",         "\r\n",
                            ";x\r\n",          "1 \r\na\r\n", "1 x\r\na\r\n",       "ffffffffffffffff\r\n",
                            "1;\x01\r\n",      "1\r\na\rb",   "0\r\n x: y\r\n\r\n", "0\r\nno colon\r\n\r\n",
                            "0\r\nX: y\n\r\n", "0\r\n\rX",    "1\r\r\na",           "1;x\n"}) {
    EXPECT_EQ(Decode(coded).state, ChunkedDecoder::State::kMalformed) << coded;
  }
}

TEST(ChunkedDecoder, BoundsExtensionsAndTrailers) {
  EXPECT_EQ(Decode("1;" + std::string(20000, 'x')).state, ChunkedDecoder::State::kTooLarge);
  std::string many;
  for (int i = 0; i < 10000; ++i) many += "1;x\r\na\r\n";
  EXPECT_EQ(Decode(many).state, ChunkedDecoder::State::kTooLarge);
  EXPECT_EQ(Decode("0\r\nX: " + std::string(20000, 'x')).state, ChunkedDecoder::State::kTooLarge);
}

TEST(ChunkedDecoder, SEC_28_TakesAMillionChunksOfOneByte) {
  constexpr size_t kChunks = 1'000'000;
  std::string coded;
  for (size_t i = 0; i < kChunks; ++i) coded += "1\r\nx\r\n";
  coded += "0\r\n\r\n";
  const Decoded decoded = Decode(coded, 16384);
  EXPECT_EQ(decoded.state, ChunkedDecoder::State::kDone);
  EXPECT_EQ(decoded.body.size(), kChunks);
}

// ---- Budget ----

TEST(BodyBudget, NobodyTakesWhatTheNextOneNeeds) {
  constexpr uint64_t kMb = uint64_t{1} << 20;
  BodyBudget budget(100 * kMb);
  EXPECT_EQ(budget.Take("a", 101 * kMb), nullptr);
  auto first = budget.Take("a", 30 * kMb);
  auto second = budget.Take("a", 20 * kMb);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(budget.Take("a", 10 * kMb), nullptr) << "it has half";
  EXPECT_NE(budget.Take("a", 1000), nullptr) << "a small one";
  auto other = budget.Take("b", 40 * kMb);
  ASSERT_TRUE(other) << "its first";
  EXPECT_EQ(budget.Take("b", kMb), nullptr);
  EXPECT_EQ(budget.n_taken(), 90 * kMb);
  EXPECT_FALSE(first->Resize(31 * kMb));
  EXPECT_TRUE(first->Resize(1 * kMb));
  EXPECT_TRUE(first->Resize(5 * kMb));
  first.reset();
  second.reset();
  EXPECT_EQ(budget.n_taken(), 40 * kMb);
  EXPECT_TRUE(other->Resize(100 * kMb)) << "all there is, as there is nobody else";
  EXPECT_EQ(budget.Take("a", 1), nullptr);
  other.reset();
  EXPECT_EQ(budget.n_taken(), 0u);
}

TEST(BodyReader, ABodyInChunksTakesFromTheBudgetAsItGrows) {
  BodyBudget budget(100'000);
  RequestHead head;
  head.chunked = true;
  BodyReader reader(head, 80'000, budget.Take("a", BodyReader::LeaseBytes(head)));
  const auto chunk = [](size_t n) { return absl::StrCat(absl::Hex(n), "\r\n", std::string(n, 'x'), "\r\n"); };
  size_t n_used = 0;
  EXPECT_EQ(reader.Push(chunk(40'000), n_used), BodyReader::State::kMore);
  EXPECT_GE(budget.n_taken(), 40'000u);
  EXPECT_EQ(reader.Push(chunk(50'000), n_used), BodyReader::State::kFault);
  EXPECT_EQ(reader.fault().status, 413);
  const auto rest = budget.Take("b", 100'000 - budget.n_taken());
  BodyReader other(head, 80'000, budget.Take("c", 0));
  EXPECT_EQ(other.Push(chunk(20'000), n_used), BodyReader::State::kFault);
  EXPECT_EQ(other.fault().status, 503);
}

// ---- Codings ----

std::string Deflated(const std::string& text, int window) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<const Bytef*>(text.data());
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Zstandard(const std::string& text, int window_log = 20) {
  std::string out(ZSTD_compressBound(text.size()) + 64, '\0');
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  ZSTD_outBuffer to = {out.data(), out.size(), 0};
  ZSTD_inBuffer from = {text.data(), text.size(), 0};
  // Before it can see how little there is, and choose a smaller window.
  ZSTD_inBuffer first = {text.data(), 1, 0};
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &first, ZSTD_e_flush), 0u);
  from.pos = 1;
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &from, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
  return out;
}

std::string SomeText(size_t n) {
  std::mt19937 random(7);
  std::string text;
  while (text.size() < n) absl::StrAppend(&text, random() % 1000, " words ");
  return text;
}

// The text, or the status it is refused with.
std::string Undo(ContentCoding coding, const std::string& coded, uint64_t n_max = 1 << 20, bool has_room = true) {
  const auto result = DecodeContent(coding, coded, n_max, [&](uint64_t) { return has_room; });
  if (const auto* fault = std::get_if<HttpFault>(&result)) return absl::StrCat(fault->status);
  return std::get<std::string>(result);
}

struct Coded {
  ContentCoding coding;
  std::string bytes;
};

TEST(DecodeContent, UndoesEachCodingAndRefusesWhatIsCut) {
  const std::string text = SomeText(300'000);
  for (const auto& [coding, bytes] :
       {Coded{ContentCoding::kGzip, Deflated(text, 31)}, Coded{ContentCoding::kDeflate, Deflated(text, 15)},
        Coded{ContentCoding::kDeflate, Deflated(text, -15)}, Coded{ContentCoding::kZstd, Zstandard(text)}}) {
    EXPECT_TRUE(Undo(coding, bytes) == text);
    EXPECT_TRUE(Undo(coding, bytes, text.size()) == text);
    EXPECT_EQ(Undo(coding, bytes, text.size() - 1), "413");
    EXPECT_EQ(Undo(coding, bytes, 1 << 20, /*has_room=*/false), "503");
    EXPECT_EQ(Undo(coding, bytes.substr(0, bytes.size() - 1)), "400");
    EXPECT_EQ(Undo(coding, bytes.substr(0, bytes.size() / 2)), "400");
    EXPECT_EQ(Undo(coding, bytes + "x"), "400");
    EXPECT_EQ(Undo(coding, ""), "400");
    EXPECT_EQ(Undo(coding, "{\"no\": \"coding at all\"}"), "400");
  }
  EXPECT_EQ(Undo(ContentCoding::kGzip, Deflated("a", 31) + Deflated("b", 31)), "ab");
  EXPECT_EQ(Undo(ContentCoding::kZstd, Zstandard("a") + Zstandard("b")), "ab");
  EXPECT_TRUE(Undo(ContentCoding::kZstd, Zstandard(text, 27)) == "400") << "a window of 128 MiB";
}

TEST(DecodeContent, ABombIsLetOutNoFurtherThanTheLimit) {
  const std::string zeros(size_t{16} << 20, '\0');
  uint64_t n_granted = 0;
  const std::string bomb = Deflated(zeros, 31);
  EXPECT_LT(bomb.size(), 20'000u);
  const auto result = DecodeContent(ContentCoding::kGzip, bomb, 1 << 20, [&](uint64_t n) {
    n_granted = n;
    return true;
  });
  EXPECT_TRUE(std::holds_alternative<HttpFault>(result));
  EXPECT_LT(n_granted, uint64_t{2} << 20);
}

TEST(ContentCodingOf, KnowsItsOwnAndRefusesOthersByNamingThem) {
  const auto of = [](const std::string& value) { return ContentCodingOf({{"Content-Encoding", value}}); };
  EXPECT_EQ(std::get<ContentCoding>(ContentCodingOf({})), ContentCoding::kIdentity);
  EXPECT_EQ(std::get<ContentCoding>(of("identity")), ContentCoding::kIdentity);
  EXPECT_EQ(std::get<ContentCoding>(of("X-GZip")), ContentCoding::kGzip);
  EXPECT_EQ(std::get<ContentCoding>(of("zstd, identity")), ContentCoding::kZstd);
  for (const char* value : {"br", "gzip, zstd", "gzip, br", "compress"}) {
    const auto fault = of(value);
    ASSERT_TRUE(std::holds_alternative<HttpFault>(fault)) << value;
    EXPECT_EQ(std::get<HttpFault>(fault).status, 415);
    EXPECT_EQ(FieldOf(std::get<HttpFault>(fault).headers, "Accept-Encoding"), "gzip, deflate, zstd");
  }
}

}  // namespace
}  // namespace longshelf::router
