#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "connection.h"
#include "kvstore/server.h"
#include "kvstore/store.h"
#include "objects.h"

namespace longshelf::kvstore {

// A real server on a free loopback port, and a real client.
class ServiceFixture : public ::testing::Test {
 protected:
  void Start(uint64_t capacity, ServerOptions options = {}, double parked_share = 0.5) {
    auto store = Store::Create({.capacity_bytes = capacity, .parked_share = parked_share});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
    auto server = Server::Start(options, *store_, clock_, metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    client_ = Connect(options.token);
  }

  Connection Connect(const std::string& token = "") { return Connection({.address = address_, .token = token}); }

  absl::StatusOr<PutOutcome> Put(const Object& object) {
    const PutItem items[] = {ItemOf(object)};
    return client_->PutMany(items, kTimeout)[0];
  }
  absl::StatusOr<std::vector<std::byte>> Get(const Object& object) {
    const GetItem items[] = {WantOf(object)};
    return client_->GetMany(FingerprintOf(1), items, kTimeout)[0];
  }
  StoreStats Stats() { return store_->Stats(clock_.WallNow()); }

  static constexpr absl::Duration kTimeout = absl::Seconds(30);
  SystemClock clock_;
  Metrics metrics_{"test"};
  std::unique_ptr<Store> store_;
  std::unique_ptr<Server> server_;
  Connection client_;
  std::string address_;
};

}  // namespace longshelf::kvstore
