// What request bodies cost the router while they are here, and that it is the system's again afterwards. By the
// resident memory of this process, so only where no sanitizer keeps memory of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "router/heap.h"
#include "router_harness.h"

namespace longshelf::router::testing {
namespace {

constexpr size_t kMebibyte = size_t{1} << 20;
constexpr size_t kBodyBytes = 4 * kMebibyte;
constexpr size_t kBudgetBytes = 64 * kMebibyte;
constexpr size_t kBodies = 48;
constexpr size_t kOtherBytes = 16 * kMebibyte;  // of 48 connections, and of an allocator's

size_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  size_t n_all = 0;
  size_t n_resident = 0;
  statm >> n_all >> n_resident;
  return n_resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

class BodyMemory : public ::testing::Test {
 protected:
  static RouterConfig Config() {
    KeepHeapSmall();
    RouterConfig config = RouterHarness::DefaultConfig();
    config.body_bytes_max = kBodyBytes;
    config.bodies_bytes_max = kBudgetBytes;
    return config;
  }
  // All but the last byte of as many bodies as there are, and then the last ones; every second time in chunks.
  void Send(bool chunked) {
    const std::string head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    const std::string framing = chunked ? "Transfer-Encoding: chunked" : absl::StrCat("Content-Length: ", body_.size());
    const std::string size = chunked ? absl::StrCat(absl::Hex(body_.size()), "\r\n") : "";
    std::vector<std::unique_ptr<TestClient>> clients;
    for (size_t i = 0; i < kBodies; ++i) {
      clients.push_back(std::make_unique<TestClient>(router_.service->http_port()));
      clients.back()->Send(absl::StrCat(head, framing, "\r\n\r\n", size));
      clients.back()->Send(std::string_view(body_).substr(0, body_.size() - 1));
      peak_ = std::max(peak_, ResidentBytes());
    }
    for (const auto& client : clients) {
      client->Send(chunked ? "}\r\n0\r\n\r\n" : "}");
      const Reply reply = client->Read();
      peak_ = std::max(peak_, ResidentBytes());
      EXPECT_TRUE(reply.result_int() == 400 || reply.result_int() == 503) << reply.body();
      const bool is_refused = reply.result_int() == 503;
      EXPECT_EQ(reply["Retry-After"], is_refused ? "1" : "");
      ++(is_refused ? n_refused_ : n_prepared_);
      EXPECT_TRUE(client->IsClosed());
    }
  }

  const std::string body_ = absl::StrCat(R"({"prompt":")", std::string(kBodyBytes - 13, 'a'), R"("})");
  RouterHarness router_{1, Config()};
  size_t peak_ = 0;
  size_t n_refused_ = 0;
  size_t n_prepared_ = 0;
};

TEST_F(BodyMemory, BodiesTakeNoMoreThanTheirBudgetAndGiveItBack) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer keeps memory";
#endif
  const size_t before = ResidentBytes();
  for (int round = 0; round < 4; ++round) {
    Send(/*chunked=*/round % 2 == 1);
    EXPECT_LT(ResidentBytes(), before + kOtherBytes) << "after round " << round;
  }
  EXPECT_LT(peak_, before + kBudgetBytes + kOtherBytes);
  EXPECT_GE(n_prepared_, 4 * 4u);
  EXPECT_GE(n_refused_, 4 * 24u);
}

}  // namespace
}  // namespace longshelf::router::testing
