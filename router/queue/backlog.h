#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "router/worker_link.h"

namespace longshelf::router::internal {

// By the tokens that are to be computed. Each has a line of its own in its flow, so that nobody waits behind a prompt
// that is much longer than his own.
enum class SizeClass : uint8_t { kShort, kMedium, kLong, kHuge };
inline constexpr size_t kSizeClasses = 4;
SizeClass SizeClassOf(uint64_t n_tokens);

struct Flow;

// What shares and lines are counted by: a base of every stream. The backlog owns none.
struct Waiter {
  Flow* flow = nullptr;          // from Join to Leave
  uint64_t n_tokens = 0;         // it will cost about, while it waits
  uint64_t n_tokens_queued = 0;  // of its prompt, that its worker still has to read
  bool in_line = false;
  SizeClass size = SizeClass::kShort;
  std::list<Waiter*>::iterator place;
};

// First in, first out, but for those who were sent back.
struct Line {
  std::list<Waiter*> waiters;
  uint64_t n_tokens = 0;  // all of theirs
  double served = 0;
};

// The streams of one tenant in one service tier.
struct Flow {
  double weight = 1;
  uint32_t n_members = 0;  // waiting and running
  uint32_t n_running = 0;
  size_t n_waiting = 0;
  double served = 0;  // tokens it was given, divided by its weight; comparable between flows
  std::array<Line, kSizeClasses> lines;
  double clock = 0;  // as Backlog::clock_, of its lines
};

// Streams that wait for a worker, fair between tenants: start-time fair queueing in tokens. Who was served least is
// next; what is served counts, prompts when they are sent to a worker and output as it comes, so a tenant in the middle
// of long answers waits for one who has had none. A flow that was idle begins where the others are: nobody saves up.
// Tiers are weights, not precedence, and lines of one flow share it evenly: nothing starves.
// Owner: the router loop.
class Backlog {
 public:
  static double Weight(ServiceTier tier);

  void Join(Waiter& waiter, std::string_view tenant, ServiceTier tier);
  // REQUIRES: not in line and not running.
  void Leave(Waiter& waiter);

  void Push(Waiter& waiter, uint64_t n_tokens, bool to_front);
  void Remove(Waiter& waiter);
  // It is given to a worker, from wherever it waited.
  void Begin(Waiter& waiter);
  // It is with no worker any more.
  static void End(Waiter& waiter) { --waiter.flow->n_running; }
  // It was served so much; less than nothing: it was not, after all.
  static void Charge(Waiter& waiter, double n_tokens);

  bool empty() const { return n_waiting_ == 0; }
  size_t size() const { return n_waiting_; }
  uint64_t n_tokens() const { return n_tokens_; }
  // Its flow runs so much less than another one does that a worker would give up a sequence of that one for it.
  bool IsUnderShare(const Flow& flow) const { return (flow.n_running + 1) / flow.weight <= most_running_less_one(); }
  bool HasUnderShare() const;
  // How many tokens the workers serve, as seen by the end of this line, before it is somebody's turn who joins it.
  double TokensAhead(const Flow& flow, SizeClass size) const;
  // Of a tenant that is not here yet as well: in its line for `size`.
  double TokensAhead(std::string_view tenant, ServiceTier tier, SizeClass size) const;
  // Of a tenant, in all tiers.
  uint32_t n_members(std::string_view tenant) const;
  uint64_t n_tokens(std::string_view tenant) const;
  // Every line from its end, as long as `sees` says so: it is told how many tokens come before each. It may change
  // nothing.
  void FromTheEnds(const std::function<bool(Waiter&, double)>& sees) const;

  // One pass over those who may be next. Any change of the backlog but by Begin(what Next returned) ends it.
  class Pass {
   public:
    explicit Pass(Backlog& backlog) : backlog_(backlog) {}
    // Whose turn it is; null: nobody's that was not tried. `only_under_share`: see IsUnderShare.
    Waiter* Next(bool only_under_share);
    // No worker takes it now: who is behind it in its line may be smaller, or wanted elsewhere.
    void Skip(const Waiter& waiter);

   private:
    struct Cursor {
      std::list<Waiter*>::iterator next;
      size_t n_skipped = 0;
    };
    bool IsOpen(Line& line) const;
    Backlog& backlog_;
    std::unordered_map<const Line*, Cursor> cursors_;  // looked up only
  };

 private:
  static constexpr size_t kLookAhead = 8;
  double most_running_less_one() const;
  double WeightWaitingWith(const Flow* flow, double weight) const;

  std::map<std::pair<std::string, ServiceTier>, Flow, std::less<>> flows_;
  double clock_ = 0;  // what the flow that was served last had then
  size_t n_waiting_ = 0;
  uint64_t n_tokens_ = 0;
};

}  // namespace longshelf::router::internal
