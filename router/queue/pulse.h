#pragma once

#include <cstdint>

namespace longshelf::router::internal {

// Whether a worker that says nothing is gone. Its watch speaks at least once a second, its streams more often; when all
// of them are silent it is asked, by another of its threads, and only several questions without an answer are a death.
// Counted in beats of the asker's own timer, not in time: when the machine is too busy to run the asker, silence proves
// nothing. Owner: the router loop.
class Pulse {
 public:
  enum class Verdict : uint8_t { kAlive, kAsk, kGone };
  static constexpr int kBeatMs = 250;
  static constexpr uint32_t kAskAfter = 4;   // beats of silence
  static constexpr uint32_t kAskEvery = 2;   // beats
  static constexpr uint32_t kGoneAfter = 8;  // beats; asked twice by then

  // The worker has said something, whatever it was.
  void OnSign() { n_silent_ = 0; }
  // One beat later. kAsk: a question is due, whose answer is a sign.
  Verdict OnBeat() {
    ++n_silent_;
    if (n_silent_ >= kGoneAfter) return Verdict::kGone;
    if (n_silent_ < kAskAfter) return Verdict::kAlive;
    return (n_silent_ - kAskAfter) % kAskEvery == 0 ? Verdict::kAsk : Verdict::kAlive;
  }

 private:
  uint32_t n_silent_ = 0;
};

}  // namespace longshelf::router::internal
