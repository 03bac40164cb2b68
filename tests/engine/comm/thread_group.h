#pragma once

#include <barrier>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/comm/communicator.h"

namespace longshelf::testing {

// A shard group inside one process: every member is a thread, every collective a barrier. No MPI, so sanitizers see
// all.
class ThreadGroup {
 public:
  explicit ThreadGroup(int size)
      : barrier_(size),
        values_(static_cast<size_t>(size)),
        sends_(static_cast<size_t>(size)),
        parts_(static_cast<size_t>(size)),
        size_(size) {}

  // Runs body(communicator) on `size` threads and joins them.
  void Run(const std::function<void(engine::Communicator&)>& body) {
    std::vector<std::thread> threads;
    for (int r = 0; r < size_; ++r) {
      threads.emplace_back([this, r, &body] {
        Member member(*this, r);
        body(member);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  class Member final : public engine::Communicator {
   public:
    Member(ThreadGroup& group, int rank) : group_(group), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return group_.size_; }

    absl::Status Barrier() override {
      group_.barrier_.arrive_and_wait();
      return absl::OkStatus();
    }
    absl::Status Broadcast(std::string& bytes) override {
      if (rank_ == 0) group_.values_[0] = bytes;
      group_.barrier_.arrive_and_wait();
      if (rank_ != 0) bytes = group_.values_[0];
      group_.barrier_.arrive_and_wait();
      return absl::OkStatus();
    }
    absl::StatusOr<std::vector<std::string>> Gather(std::string_view bytes) override {
      group_.values_[index()] = std::string(bytes);
      group_.barrier_.arrive_and_wait();
      std::vector<std::string> out;
      if (rank_ == 0) out = group_.values_;
      group_.barrier_.arrive_and_wait();
      return out;
    }
    absl::Status ExchangeFixed(std::span<const std::byte> send, std::span<std::byte> receive) override {
      const size_t n = send.size() / group_.values_.size();
      group_.sends_[index()] = send.data();
      group_.barrier_.arrive_and_wait();
      for (size_t s = 0; s < group_.sends_.size(); ++s) {
        std::memcpy(receive.data() + s * n, group_.sends_[s] + index() * n, n);
      }
      group_.barrier_.arrive_and_wait();
      return absl::OkStatus();
    }
    absl::Status ExchangeUnits(const std::byte* send, std::span<const engine::ExchangePart> send_parts,
                               std::byte* receive, std::span<const engine::ExchangePart> receive_parts) override {
      group_.sends_[index()] = send;
      group_.parts_[index()].assign(send_parts.begin(), send_parts.end());
      group_.barrier_.arrive_and_wait();
      bool sizes_agree = true;
      for (size_t s = 0; s < group_.sends_.size(); ++s) {
        const engine::ExchangePart from = group_.parts_[s][index()];
        sizes_agree = sizes_agree && from.n_units == receive_parts[s].n_units;
        if (from.n_units == 0 || !sizes_agree) continue;
        std::memcpy(receive + receive_parts[s].first_unit * engine::kExchangeUnitBytes,
                    group_.sends_[s] + from.first_unit * engine::kExchangeUnitBytes,
                    from.n_units * engine::kExchangeUnitBytes);
      }
      group_.barrier_.arrive_and_wait();
      return sizes_agree ? absl::OkStatus() : absl::UnavailableError("message sizes differ");
    }

   private:
    size_t index() const { return static_cast<size_t>(rank_); }
    ThreadGroup& group_;
    const int rank_;
  };

  std::barrier<> barrier_;
  std::vector<std::string> values_;
  std::vector<const std::byte*> sends_;
  std::vector<std::vector<engine::ExchangePart>> parts_;
  const int size_;
};

}  // namespace longshelf::testing
