#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "common/task_loop.h"

namespace longshelf::worker {

// Memory for everything on its way between engine and KV store. The way out may have half of it, so that a store that
// takes nothing never keeps a worker from restoring. The way in goes first; within a way, who came first.
// Any thread.
class ByteBudget {
  struct State;

 public:
  enum class Way : uint8_t { kIn, kOut };

  // Gives the bytes back when it goes. Empty when it was moved from.
  class Lease {
   public:
    Lease() = default;
    Lease(std::shared_ptr<State> state, Way way, uint64_t n_bytes)
        : state_(std::move(state)), way_(way), n_bytes_(n_bytes) {}
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept;
    ~Lease() { GiveBack(); }
    uint64_t n_bytes() const { return n_bytes_; }

   private:
    void GiveBack();

    std::shared_ptr<State> state_;
    Way way_ = Way::kIn;
    uint64_t n_bytes_ = 0;
  };

  ByteBudget(uint64_t n_bytes, std::shared_ptr<TaskLoop> loop);

  uint64_t n_max(Way way) const;
  uint64_t n_used() const;
  // At once, or not at all.
  std::optional<Lease> TryTake(Way way, uint64_t n_bytes);
  // When it can be had; `taken` runs on the loop, not within this call. REQUIRES: n_bytes <= n_max(way).
  void Take(Way way, uint64_t n_bytes, std::function<void(std::shared_ptr<Lease>)> taken);

 private:
  const std::shared_ptr<State> state_;
};

}  // namespace longshelf::worker
