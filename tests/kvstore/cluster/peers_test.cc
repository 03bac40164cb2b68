// Stores that find each other under a name.
#include "kvstore/peers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/server.h"
#include "objects.h"

namespace longshelf::kvstore {
namespace {

const SystemClock kClock;

// A store that serves, and looks for the others.
class Node {
 public:
  Node()
      : store_(*Store::Create({.capacity_bytes = 16 << 20})), server_(*Server::Start({}, *store_, kClock, metrics_)) {}

  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }
  absl::Status LookFor(std::function<std::vector<Member>()> named) {
    PeerOptions options{.stores = "dns:stores:7400", .advertise = address()};
    options.resolve_interval = absl::Milliseconds(20);
    options.resolve = [named = std::move(named)](const std::string& host_port) {
      EXPECT_EQ(host_port, "stores:7400");
      return named();
    };
    auto peers = Peers::Start(options, *store_, kClock, metrics_);
    if (peers.ok()) peers_ = *std::move(peers);
    return peers.status();
  }
  void Park(const Object& object) {
    auto opened = store_->Open(object.head, kClock.WallNow());
    ASSERT_TRUE(opened.ok()) << opened.status();
    auto& reservation = std::get<Store::Reservation>(*opened);
    ASSERT_TRUE(reservation.Append(0, object.payload).ok());
    ASSERT_TRUE(store_->Commit(std::move(reservation), kClock.WallNow()).ok());
  }
  bool Has(const Object& object) {
    auto reader = store_->Get(object.head.key, object.head.fingerprint);
    std::vector<std::byte> bytes(object.payload.size());
    return reader.ok() && reader->Read(bytes).ok() && bytes == object.payload;
  }
  bool HandOver() { return peers_->HandOver(absl::Seconds(20)); }

 private:
  Metrics metrics_{"test"};
  std::unique_ptr<Store> store_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Peers> peers_;
};

TEST(Peers, AStoreThatAppearsUnderTheNameGetsItsReplicas) {
  std::mutex mutex;
  std::vector<Member> named;
  Node first;
  Node second;
  const auto resolve = [&] {
    std::lock_guard lock(mutex);
    return named;
  };
  const Object object = Parked(MakeObject(1, 0, 256, 5000), kClock.WallNow() + absl::Hours(1));
  first.Park(object);
  // Nobody is named before it serves, not even itself.
  ASSERT_TRUE(first.LookFor(resolve).ok());
  ASSERT_TRUE(second.LookFor(resolve).ok());
  {
    std::lock_guard lock(mutex);
    named = {{.address = first.address()}, {.address = second.address()}};
  }
  const absl::Time deadline = kClock.Now() + absl::Seconds(30);
  while (!second.Has(object) && kClock.Now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(second.Has(object));
  // And back, when the second leaves.
  const Object other = Parked(MakeObject(2, 0, 256, 5000), kClock.WallNow() + absl::Hours(1));
  second.Park(other);
  EXPECT_TRUE(second.HandOver());
  EXPECT_TRUE(first.Has(other));
}

TEST(Peers, ANameNeedsAnAddressThatOthersReachThisStoreAt) {
  auto store = *Store::Create({.capacity_bytes = 1 << 20});
  Metrics metrics("test");
  for (const char* advertise : {"", "0.0.0.0:7400", "[::]:7400", "kv0", "a:1,b:1"}) {
    const PeerOptions options{.stores = "dns:stores:7400", .advertise = advertise};
    EXPECT_EQ(Peers::Start(options, *store, kClock, metrics).status().code(), absl::StatusCode::kInvalidArgument)
        << advertise;
  }
}

}  // namespace
}  // namespace longshelf::kvstore
