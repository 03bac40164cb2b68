#pragma once

#include <array>
#include <barrier>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
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

    // A send is over at once: its bytes are kept until they are asked for.
    absl::StatusOr<Transfer> StartSend(int peer, int tag, const std::byte* bytes, size_t n_units) override {
      const std::lock_guard lock(group_.mutex_);
      group_.messages_[{rank_, peer, tag}].emplace_back(bytes, bytes + n_units * engine::kExchangeUnitBytes);
      open_.push_back({});
      return Transfer{static_cast<int>(open_.size()) - 1};
    }
    // Messages go to receives in the order in which these were started, whichever is asked for first.
    absl::StatusOr<Transfer> StartReceive(int peer, int tag, std::byte* bytes, size_t n_units_max) override {
      open_.push_back({{peer, rank_, tag}, bytes, n_units_max * engine::kExchangeUnitBytes});
      const Transfer transfer{static_cast<int>(open_.size()) - 1};
      waiting_[open_.back().key].push_back(transfer.id);
      return transfer;
    }
    absl::Status Advance() override { return absl::OkStatus(); }
    absl::StatusOr<bool> IsDone(Transfer& transfer) override {
      const Receive& receive = open_[static_cast<size_t>(transfer.id)];
      if (receive.bytes != nullptr) {
        const std::lock_guard lock(group_.mutex_);
        auto& queue = group_.messages_[receive.key];
        auto& waiting = waiting_[receive.key];
        if (queue.empty() || waiting.front() != transfer.id) return false;
        waiting.pop_front();
        if (queue.front().size() > receive.n_max) return absl::UnavailableError("message truncated");
        std::memcpy(receive.bytes, queue.front().data(), queue.front().size());
        queue.pop_front();
      }
      transfer = {};
      return true;
    }

   private:
    struct Receive {
      std::array<int, 3> key = {};  // from, to, tag
      std::byte* bytes = nullptr;
      size_t n_max = 0;
    };
    size_t index() const { return static_cast<size_t>(rank_); }
    ThreadGroup& group_;
    const int rank_;
    std::vector<Receive> open_;
    std::map<std::array<int, 3>, std::deque<int>> waiting_;  // open receives of one pair and tag
  };

  std::barrier<> barrier_;
  std::mutex mutex_;
  std::map<std::array<int, 3>, std::deque<std::vector<std::byte>>> messages_;
  std::vector<std::string> values_;
  std::vector<const std::byte*> sends_;
  std::vector<std::vector<engine::ExchangePart>> parts_;
  const int size_;
};

}  // namespace longshelf::testing
