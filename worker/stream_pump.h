#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "common/mailbox.h"
#include "engine/messages.h"

namespace longshelf::worker {

// Something with output that may be ready to go out.
class Pumped {
 public:
  virtual ~Pumped() = default;
  // Any thread; starts at most one write.
  virtual void Pump() = 0;
};

// The edge's one thread of its own. The engine thread only appends to a stream's buffer and posts the stream here;
// serialising and sending happen on this thread and on gRPC's. It also ticks the Watch streams, and retries what a full
// engine inbox refused but must not be lost.
class StreamPump {
 public:
  StreamPump(size_t capacity, Mailbox<engine::EngineMessage>& engine_inbox);
  ~StreamPump();
  StreamPump(const StreamPump&) = delete;
  StreamPump& operator=(const StreamPump&) = delete;

  // A stream is posted at most once until it was pumped, so the capacity holds; were it full, it is pumped right here.
  void Post(std::shared_ptr<Pumped> stream);
  // Cancels a sequence now, or as soon as the engine's inbox has room.
  void CancelSequence(uint64_t id);
  // Streams that are pumped on every tick and after every change of the hub.
  void AddTicked(uint64_t id, std::weak_ptr<Pumped> stream);
  void RemoveTicked(uint64_t id);
  void WakeTicked();

 private:
  void Loop();
  void Tick();
  void RetryCancels();

  Mailbox<engine::EngineMessage>& engine_inbox_;
  Mailbox<std::shared_ptr<Pumped>> inbox_;  // null: just wake up
  Mailbox<uint64_t> cancels_;
  std::vector<uint64_t> cancels_left_;  // pump thread only
  std::atomic<bool> tick_wanted_{false};
  // Guards the list only; gRPC threads add and remove Watch streams.
  std::mutex ticked_mutex_;
  std::map<uint64_t, std::weak_ptr<Pumped>> ticked_;
  std::thread thread_;
};

}  // namespace longshelf::worker
