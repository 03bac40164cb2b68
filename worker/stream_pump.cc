#include "stream_pump.h"

#include <chrono>
#include <utility>

namespace longshelf::worker {
namespace {

constexpr auto kTickPeriod = std::chrono::milliseconds(100);
constexpr auto kRetryPeriod = std::chrono::milliseconds(5);
constexpr auto kIdlePeriod = std::chrono::minutes(1);

}  // namespace

StreamPump::StreamPump(size_t capacity, Mailbox<engine::EngineMessage>& engine_inbox)
    : engine_inbox_(engine_inbox), inbox_(capacity), cancels_(capacity), thread_([this] { Loop(); }) {}

StreamPump::~StreamPump() {
  inbox_.Close();
  thread_.join();
}

void StreamPump::Post(std::shared_ptr<Pumped> stream) {
  if (!inbox_.Post(std::move(stream)) && stream != nullptr) stream->Pump();
}

void StreamPump::CancelSequence(uint64_t id) {
  engine::EngineMessage message = engine::Cancel{id};
  if (engine_inbox_.Post(std::move(message)) || engine_inbox_.closed()) return;
  // At most one per live sequence, and there are fewer of those than the capacity.
  cancels_.Post(std::move(id));
  inbox_.Post(nullptr);
}

void StreamPump::AddTicked(uint64_t id, std::weak_ptr<Pumped> stream) {
  {
    std::lock_guard lock(ticked_mutex_);
    ticked_[id] = std::move(stream);
  }
  WakeTicked();
}

void StreamPump::RemoveTicked(uint64_t id) {
  std::lock_guard lock(ticked_mutex_);
  ticked_.erase(id);
}

void StreamPump::WakeTicked() {
  // A full inbox wakes the pump as well.
  if (!tick_wanted_.exchange(true)) inbox_.Post(nullptr);
}

void StreamPump::RetryCancels() {
  for (const uint64_t id : cancels_.Drain(std::chrono::milliseconds(0))) cancels_left_.push_back(id);
  std::erase_if(cancels_left_, [this](uint64_t id) {
    engine::EngineMessage message = engine::Cancel{id};
    return engine_inbox_.Post(std::move(message)) || engine_inbox_.closed();
  });
}

void StreamPump::Tick() {
  std::vector<std::shared_ptr<Pumped>> streams;
  {
    std::lock_guard lock(ticked_mutex_);
    for (const auto& [id, stream] : ticked_) {
      if (auto alive = stream.lock()) streams.push_back(std::move(alive));
    }
  }
  for (const auto& stream : streams) stream->Pump();
}

void StreamPump::Loop() {
  auto next_tick = std::chrono::steady_clock::now();
  while (true) {
    bool has_ticked = false;
    {
      std::lock_guard lock(ticked_mutex_);
      has_ticked = !ticked_.empty();
    }
    auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(kIdlePeriod);
    if (has_ticked) wait = kTickPeriod;
    if (!cancels_left_.empty()) wait = kRetryPeriod;
    const auto posted = inbox_.Drain(wait);
    if (posted.empty() && inbox_.closed()) return;
    for (const auto& stream : posted) {
      if (stream != nullptr) stream->Pump();
    }
    RetryCancels();
    const auto now = std::chrono::steady_clock::now();
    if (tick_wanted_.exchange(false) || now >= next_tick) {
      Tick();
      next_tick = now + kTickPeriod;
    }
  }
}

}  // namespace longshelf::worker
