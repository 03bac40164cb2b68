#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace longshelf::router {

// Bytes of request bodies that may be here at one time, over all connections: from the first one that is read until
// the request is prepared and its body dropped. Who has much already is refused before who has little: a payer may
// hold at most as much as is left free beside it, so one alone gets half, and there is always room for the next one and
// for small ones.
// Any thread.
class BodyBudget {
  struct Accounts;

 public:
  explicit BodyBudget(uint64_t n_bytes_max);

  class Lease {
   public:
    // Of BodyBudget::Take.
    Lease(std::shared_ptr<Accounts> accounts, std::string payer);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    // To so many in all. False: there is no room, and nothing has changed. Less is always granted.
    bool Resize(uint64_t n_bytes);

   private:
    const std::shared_ptr<Accounts> accounts_;
    const std::string payer_;
    uint64_t n_bytes_ = 0;
  };
  // Null: there is no room.
  std::shared_ptr<Lease> Take(const std::string& payer, uint64_t n_bytes);
  uint64_t n_taken() const;

 private:
  struct Accounts {
    explicit Accounts(uint64_t n_max) : n_bytes_max(n_max) {}
    const uint64_t n_bytes_max;
    // Guards what follows: the pool's threads give back what the loop takes, and the next to come must find it.
    std::mutex mutex;
    uint64_t n_taken = 0;
    std::map<std::string, uint64_t> taken_by;
  };
  const std::shared_ptr<Accounts> accounts_;
};

}  // namespace longshelf::router
