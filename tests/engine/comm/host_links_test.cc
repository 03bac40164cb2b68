#include "engine/comm/host_links.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <mutex>

namespace longshelf::engine {
namespace {

using ::testing::HasSubstr;
using Options = HostLinks::Options;

// What one side has heard, to wait for.
class Ears {
 public:
  Options For(absl::Duration silence) {
    Options options;
    options.beat = silence / 10;
    options.silence = silence;
    options.lost = [this](const std::string& reason) {
      const std::lock_guard lock(mutex_);
      lost_ = reason;
      heard_.notify_all();
    };
    options.rung = [this] {
      const std::lock_guard lock(mutex_);
      ++n_rings_;
      heard_.notify_all();
    };
    return options;
  }
  // "" when nothing was lost in time.
  std::string AwaitLoss() {
    std::unique_lock lock(mutex_);
    heard_.wait_for(lock, std::chrono::seconds(10), [this] { return !lost_.empty(); });
    return lost_;
  }
  bool AwaitRings(int n) {
    std::unique_lock lock(mutex_);
    return heard_.wait_for(lock, std::chrono::seconds(10), [&] { return n_rings_ >= n; });
  }
  int n_rings() {
    const std::lock_guard lock(mutex_);
    return n_rings_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable heard_;
  std::string lost_;
  int n_rings_ = 0;
};

constexpr absl::Duration kLong = absl::Seconds(30);

std::unique_ptr<HostLinks> Lead(std::vector<std::string> peers, Options options) {
  auto links = HostLinks::Lead("127.0.0.1:0", std::move(peers), std::move(options));
  EXPECT_TRUE(links.ok()) << links.status();
  return *std::move(links);
}

// A connection that says `bytes` and then nothing.
class Stranger {
 public:
  Stranger(const HostLinks::Invitation& to, const std::string& bytes) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(to.port);
    inet_pton(AF_INET, to.host.c_str(), &address.sin_addr);
    EXPECT_EQ(connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  ~Stranger() { close(fd_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;
  // The other side has hung up.
  bool AwaitEnd() const {
    char byte = 0;
    return recv(fd_, &byte, 1, 0) <= 0;
  }

 private:
  const int fd_;
};

// As engine/comm/host_links.cc says hello.
std::string Hello(uint64_t index, const std::string& key) {
  std::string out("LLH1\x01\0\0\0", 8);
  out.append(reinterpret_cast<const char*>(&index), sizeof(index));
  return out + key;
}

TEST(HostLinks, EveryRingOfTheLeaderIsHeardOnceByEveryHost) {
  Ears leader_ears;
  Ears ears[2];
  const auto leader = Lead({"host b", "host c"}, leader_ears.For(kLong));
  const auto b = HostLinks::Join(leader->invitation(), 0, kLong, ears[0].For(kLong));
  const auto c = HostLinks::Join(leader->invitation(), 1, kLong, ears[1].For(kLong));
  ASSERT_TRUE(b.ok() && c.ok());
  ASSERT_TRUE(leader->AwaitPeers(kLong).ok());
  for (int i = 0; i < 100; ++i) leader->Ring();
  for (Ears& one : ears) {
    EXPECT_TRUE(one.AwaitRings(100));
    EXPECT_EQ(one.n_rings(), 100);
  }
}

TEST(HostLinks, AHostThatDoesNotComeIsNamed) {
  Ears ears;
  const auto leader = Lead({"host b", "host c"}, ears.For(kLong));
  const auto c = HostLinks::Join(leader->invitation(), 1, kLong, ears.For(kLong));
  EXPECT_THAT(std::string(leader->AwaitPeers(absl::Milliseconds(200)).message()),
              HasSubstr("no connection from host b to 127.0.0.1"));
}

TEST(HostLinks, BothSidesLearnAtOnceThatTheOtherHasGone) {
  Ears leader_ears;
  Ears ears;
  auto leader = Lead({"host b"}, leader_ears.For(kLong));
  auto b = HostLinks::Join(leader->invitation(), 0, kLong, ears.For(kLong));
  ASSERT_TRUE(b.ok() && leader->AwaitPeers(kLong).ok());
  b->reset();
  EXPECT_EQ(leader_ears.AwaitLoss(), "host b is gone: it closed its link");
  leader = Lead({"host b"}, leader_ears.For(kLong));
  b = HostLinks::Join(leader->invitation(), 0, kLong, ears.For(kLong));
  ASSERT_TRUE(b.ok() && leader->AwaitPeers(kLong).ok());
  leader.reset();
  EXPECT_THAT(ears.AwaitLoss(), HasSubstr("the host of shard 0 is gone"));
}

TEST(HostLinks, WhoeverSaysWhyItEndsIsQuoted) {
  for (const size_t n_bytes : {size_t{1}, HostLinks::kWordsBytes, size_t{5000}}) {
    Ears leader_ears;
    Ears ears;
    const auto leader = Lead({"host b"}, leader_ears.For(kLong));
    auto b = HostLinks::Join(leader->invitation(), 0, kLong, ears.For(kLong));
    ASSERT_TRUE(b.ok() && leader->AwaitPeers(kLong).ok());
    leader->Ring();
    (*b)->Say(std::string(n_bytes, 'w'));
    b->reset();
    EXPECT_EQ(leader_ears.AwaitLoss(),
              "host b is gone: " + std::string(std::min(n_bytes, HostLinks::kWordsBytes), 'w'));
  }
}

TEST(HostLinks, AHostThatSaysNothingIsGone) {
  Ears ears;
  const auto leader = Lead({"host b"}, ears.For(absl::Milliseconds(300)));
  const Stranger silent(leader->invitation(), Hello(0, leader->invitation().key));
  ASSERT_TRUE(leader->AwaitPeers(kLong).ok());
  EXPECT_EQ(ears.AwaitLoss(), "host b is gone: it has been silent for 300ms");
}

TEST(HostLinks, WhoeverDoesNotKnowTheKeyIsTurnedAwayAndDisturbsNobody) {
  Ears leader_ears;
  Ears ears;
  const auto leader = Lead({"host b"}, leader_ears.For(kLong));
  const Stranger garbage(leader->invitation(), std::string(32, 'x'));
  const Stranger wrong_key(leader->invitation(), Hello(0, std::string(HostLinks::kKeyBytes, '\0')));
  const Stranger wrong_index(leader->invitation(), Hello(7, leader->invitation().key));
  const Stranger hesitant(leader->invitation(), "LLH1");
  for (const Stranger* one : {&garbage, &wrong_key, &wrong_index}) EXPECT_TRUE(one->AwaitEnd());
  const auto b = HostLinks::Join(leader->invitation(), 0, kLong, ears.For(kLong));
  ASSERT_TRUE(b.ok() && leader->AwaitPeers(kLong).ok());
  // A second one in the same place.
  const Stranger twin(leader->invitation(), Hello(0, leader->invitation().key));
  EXPECT_TRUE(twin.AwaitEnd());
  EXPECT_TRUE(hesitant.AwaitEnd());
  leader->Ring();
  EXPECT_TRUE(ears.AwaitRings(1));
}

TEST(HostLinks, ADisarmedSideLetsTheOtherGo) {
  Ears leader_ears;
  Ears ears;
  auto leader = Lead({"host b"}, leader_ears.For(kLong));
  auto b = HostLinks::Join(leader->invitation(), 0, kLong, ears.For(kLong));
  ASSERT_TRUE(b.ok() && leader->AwaitPeers(kLong).ok());
  (*b)->Disarm();
  leader.reset();
  b->reset();
  EXPECT_EQ(ears.n_rings(), 0);
}

TEST(HostLinks, AnInvitationComesThroughAsItWas) {
  HostLinks::Invitation invitation{"10.0.0.1", 7399,
                                   std::string("\0\x7F\xFF\x01"
                                               "234567890123",
                                               16)};
  const auto read = HostLinks::Invitation::Parse(invitation.Serialize());
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->host, "10.0.0.1");
  EXPECT_EQ(read->port, 7399);
  EXPECT_EQ(read->key, invitation.key);
  for (const char* bad : {"", "a 1", "a 0 00", "a 70000 00112233445566778899aabbccddeeff", "a 1 0011"}) {
    EXPECT_FALSE(HostLinks::Invitation::Parse(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace longshelf::engine
