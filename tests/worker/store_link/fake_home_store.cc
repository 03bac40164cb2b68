#include "fake_home_store.h"

#include <gtest/gtest.h>

namespace longshelf::worker {
namespace {

constexpr std::chrono::seconds kPatience(30);

}  // namespace

std::shared_ptr<kvstore::Client::GetCall> FakeHomeStore::Get(GetRequest request, GetEvents events) {
  const auto call = std::make_shared<AskedGet>(std::move(request), std::move(events), cancelled_calls_end.load());
  std::lock_guard lock(mutex_);
  gets_.push_back(call);
  added_.notify_all();
  return call;
}

std::shared_ptr<HomeStore::PutCall> FakeHomeStore::Put(absl::Duration timeout, kvstore::Client::PutEvents events) {
  const auto call = std::make_shared<AskedPut>(timeout, std::move(events), cancelled_calls_end.load());
  std::lock_guard lock(mutex_);
  puts_.push_back(call);
  added_.notify_all();
  return call;
}

std::shared_ptr<FakeHomeStore::AskedGet> FakeHomeStore::get(size_t n) {
  std::unique_lock lock(mutex_);
  EXPECT_TRUE(added_.wait_for(lock, kPatience, [&] { return gets_.size() > n; })) << "get " << n << " never came";
  return gets_.at(n);
}

std::shared_ptr<FakeHomeStore::AskedPut> FakeHomeStore::put(size_t n) {
  std::unique_lock lock(mutex_);
  EXPECT_TRUE(added_.wait_for(lock, kPatience, [&] { return puts_.size() > n; })) << "put " << n << " never came";
  return puts_.at(n);
}

size_t FakeHomeStore::n_calls() {
  std::lock_guard lock(mutex_);
  return gets_.size() + puts_.size();
}

}  // namespace longshelf::worker
