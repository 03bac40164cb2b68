#include "simulation/step.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <queue>

#include "common/check.h"
#include "core_queue.h"
#include "links.h"
#include "simulation/expert_bytes.h"

namespace longshelf::simulation {
namespace {

// Drawing more routing than this changes no mean: layers then share what was drawn.
constexpr int64_t kDrawnPairsMax = int64_t{1} << 22;
constexpr int kDrawnLayersMin = 4;
// A message that the kernel carries goes on its way, and is taken, in pieces about as large as a socket's buffer.
constexpr int64_t kPieceBytes = 64 << 10;
constexpr int64_t kPiecesMax = 64;

enum class Phase : uint8_t {
  kBefore,
  kDispatch,
  kShared,
  kAwaitRows,
  kExperts,
  kCombine,
  kAwaitResults,
  kAfter,
  kHead,
  kDone
};

// Also after its last exchange a rank waits, for the next step.
bool IsAwait(Phase phase) {
  return phase == Phase::kAwaitRows || phase == Phase::kAwaitResults || phase == Phase::kDone;
}

struct Message {
  int source = 0;
  int receiver = 0;
  int layer = 0;
  bool is_dispatch = true;
  bool for_host = false;  // delivered to every rank of the receiver's host
  double bytes = 0;
  int piece = 0;  // of those that it travels in
  bool is_last = true;
};

// What a rank's core does outside of computing.
struct Chore {
  enum class Kind : uint8_t { kNone, kSendNear, kSendFar, kTake };
  Kind kind = Kind::kNone;
  size_t message = 0;
};

struct Rank {
  Phase phase = Phase::kBefore;
  int layer = 0;
  bool is_idle = false;  // waiting, with nothing to do
  double since_s = 0;    // when the phase began
  double dispatch_from_s = 0;
  double combine_from_s = 0;
  double exposed_s = 0;
  double dispatch_s = 0;
  double combine_s = 0;
  double done_s = 0;
  std::deque<size_t> to_send;  // messages of this phase
  double volume = 0;  // bytes of them and of those of ranks that share its core: what passes through its caches
  std::deque<size_t> to_take;  // messages that are there
  Chore doing;
  std::vector<int> rows_missing;  // by layer
  std::vector<int> results_missing;
};

struct Event {
  enum class Kind : uint8_t { kSliceEnd, kSeen, kFirstByte, kLastByte };
  double at_s;
  uint64_t order;  // of making: ties are decided
  Kind kind;
  size_t message;
  CoreQueue::Slice slice;
  bool operator<(const Event& other) const { return at_s != other.at_s ? at_s > other.at_s : order > other.order; }
};

class Simulation {
 public:
  Simulation(const StepSpec& spec, ExpertSampler& sampler, std::mt19937_64& random);
  StepTimes Run();

 private:
  const Cluster& cluster() const { return spec_.cluster; }
  Rank& rank(int r) { return ranks_[static_cast<size_t>(r)]; }
  const ExchangeCounts& counts(int layer) const { return counts_[static_cast<size_t>(layer) % counts_.size()]; }
  int tokens(int r) const { return spec_.tokens[static_cast<size_t>(r)]; }
  // Ranks of a machine live on its cores in turn.
  int core_of(int r) const {
    const int machine = spec_.one_machine ? 0 : cluster().host_of(r);
    const int place = r % (cluster().n_ranks / n_machines_);
    return machine * n_cores_ + place % n_cores_;
  }
  CoreQueue& core(int r) { return cores_[static_cast<size_t>(core_of(r))]; }
  bool is_near(int a, int b) const { return cluster().host_of(a) == cluster().host_of(b); }

  void Push(Event::Kind kind, double at_s, size_t message, const CoreQueue::Slice& slice = {});
  void Work(int r, double seconds);
  void StartSlice(CoreQueue& core);
  void Enter(int r, Phase phase);
  void OnWorkDone(int r);
  void Next(int r);
  void PrepareDispatch(int r);
  void PrepareCombine(int r);
  void AddMessage(int source, int receiver, bool is_dispatch, bool for_host, int64_t bytes);
  void Interleave(int r);
  void SendNext(int r);
  void GoOnWaiting(int r);
  void Deliver(const Message& message);
  void OnEvent(const Event& event);
  double ExpertWork(int r) const;
  double ReadWork(int r, bool is_dispatch) const;
  double MoveWork(int r, int other, bool is_dispatch, double bytes) const;
  StepTimes Times() const;

  const StepSpec& spec_;
  std::vector<ExchangeCounts> counts_;
  std::vector<Rank> ranks_;
  int n_machines_ = 1;
  int n_cores_ = 1;  // of a machine: as many as ranks compute at the same time
  std::vector<CoreQueue> cores_;
  Links links_;
  std::vector<Message> messages_;
  std::priority_queue<Event> events_;
  uint64_t n_events_ = 0;
  double ranks_per_core_ = 1;  // when they take turns
  double now_s_ = 0;
  double near_bytes_ = 0;
  double far_bytes_ = 0;
};

Simulation::Simulation(const StepSpec& spec, ExpertSampler& sampler, std::mt19937_64& random)
    : spec_(spec), links_(spec.network, spec.cluster.n_hosts * spec.cluster.nics_per_host) {
  const Cluster& c = spec.cluster;
  LONGSHELF_CHECK(c.n_ranks >= 1 && c.n_hosts >= 1 && c.n_ranks % c.n_hosts == 0);
  LONGSHELF_CHECK(spec.tokens.size() == static_cast<size_t>(c.n_ranks) && spec.n_layers >= 1);
  int64_t n_pairs = 1;
  for (const int t : spec.tokens) n_pairs += int64_t{t} * spec.experts.n_per_token;
  const auto n_drawn = std::min<int64_t>(spec.n_layers, std::max<int64_t>(kDrawnLayersMin, kDrawnPairsMax / n_pairs));
  for (int64_t l = 0; l < n_drawn; ++l) counts_.emplace_back(c, spec.experts, spec.tokens, sampler, random);
  ranks_.resize(static_cast<size_t>(c.n_ranks));
  for (Rank& r : ranks_) {
    r.rows_missing.assign(static_cast<size_t>(spec.n_layers), c.n_ranks - 1);
    r.results_missing = r.rows_missing;
  }
  n_machines_ = spec.one_machine ? 1 : c.n_hosts;
  n_cores_ = std::max(1, c.cores_per_host / std::max(1, c.threads_per_rank));
  const int n_here = c.n_ranks / n_machines_;
  ranks_per_core_ = std::max(1.0, static_cast<double>(n_here) / n_cores_);
  const double switch_s = c.n_hosts > 1 ? spec.exchange.tcp_switch_s : spec.exchange.switch_s;
  for (int i = 0; i < n_machines_ * n_cores_; ++i) {
    const int place = i % n_cores_;
    const int n_on_core = n_here / n_cores_ + (place < n_here % n_cores_ ? 1 : 0);
    cores_.emplace_back(n_on_core, spec.exchange.quantum_s, switch_s);
  }
}

void Simulation::Push(Event::Kind kind, double at_s, size_t message, const CoreQueue::Slice& slice) {
  events_.push({at_s, n_events_++, kind, message, slice});
}

void Simulation::Work(int r, double seconds) {
  core(r).Submit(r, seconds);
  StartSlice(core(r));
}

void Simulation::StartSlice(CoreQueue& core) {
  if (const auto slice = core.Start()) Push(Event::Kind::kSliceEnd, now_s_ + slice->seconds, 0, *slice);
}

// One side's half of what a message costs, which is its part of what everything costs that is moved at that time.
double Simulation::MoveWork(int r, int other, bool is_dispatch, double bytes) const {
  if (bytes <= 0) return 0;
  const ExchangeCosts& costs = spec_.exchange;
  const WayCosts& way = is_near(r, other) ? costs.shared_memory : costs.tcp;
  const double volume = std::max(bytes, ranks_[static_cast<size_t>(r)].volume);
  return way.bulk_s(is_dispatch, core_of(r) == core_of(other)).At(volume) * bytes / volume / 2;
}

// Reading what neighbours left: rows, or results of rows that were sent to them.
double Simulation::ReadWork(int r, bool is_dispatch) const {
  double seconds = 0;
  const ExchangeCounts& c = counts(ranks_[static_cast<size_t>(r)].layer);
  for (int other = 0; other < cluster().n_ranks; ++other) {
    if (other == r || !is_near(other, r)) continue;
    const int64_t n =
        is_dispatch ? (spec_.experts.once_per_destination ? c.tokens(other, r) : c.pairs(other, r)) : c.pairs(r, other);
    const int64_t bytes = n * (is_dispatch ? spec_.experts.row_bytes : spec_.experts.result_bytes);
    seconds += MoveWork(r, other, is_dispatch, static_cast<double>(bytes));
  }
  return seconds;
}

double Simulation::ExpertWork(int r) const {
  double seconds = 0;
  for (const int64_t rows : counts(ranks_[static_cast<size_t>(r)].layer).rows_of_experts(r)) {
    seconds += spec_.compute.expert_s.At(static_cast<double>(rows));
  }
  return seconds;
}

void Simulation::AddMessage(int source, int receiver, bool is_dispatch, bool for_host, int64_t bytes) {
  Rank& me = rank(source);
  me.volume += static_cast<double>(bytes) * ranks_per_core_;
  const bool in_pieces = !is_near(source, receiver) && !spec_.network.offloaded;
  const int64_t n = in_pieces ? std::clamp<int64_t>(bytes / kPieceBytes, 1, kPiecesMax) : 1;
  for (int64_t i = 0; i < n; ++i) {
    me.to_send.push_back(messages_.size());
    messages_.push_back({source, receiver, me.layer, is_dispatch, for_host,
                         static_cast<double>(bytes) / static_cast<double>(n), static_cast<int>(i), i + 1 == n});
  }
}

// A piece of each message, then the next one of each.
void Simulation::Interleave(int r) {
  std::deque<size_t>& all = rank(r).to_send;
  std::stable_sort(all.begin(), all.end(),
                   [this](size_t a, size_t b) { return messages_[a].piece < messages_[b].piece; });
}

// One message to each neighbour and one to each other host, received by the rank in the same place there; from the next
// rank on, so that not all send to the first one first.
void Simulation::PrepareDispatch(int r) {
  const ExchangeCounts& c = counts(rank(r).layer);
  const int each = cluster().ranks_per_host();
  for (int i = 1; i < cluster().n_ranks; ++i) {
    const int to = (r + i) % cluster().n_ranks;
    if (!spec_.experts.once_per_destination || is_near(r, to)) {
      AddMessage(r, to, true, false, DispatchMessageBytes(spec_.experts, c.tokens(r, to), c.pairs(r, to)));
    } else if (to % each == r % each) {
      const int host = cluster().host_of(to);
      AddMessage(r, to, true, true,
                 DispatchMessageBytes(spec_.experts, c.tokens_to_host(r, host), c.pairs_to_host(r, host)));
    }
  }
  Interleave(r);
}

void Simulation::PrepareCombine(int r) {
  for (int i = 1; i < cluster().n_ranks; ++i) {
    const int to = (r + i) % cluster().n_ranks;
    AddMessage(r, to, false, false, CombineMessageBytes(spec_.experts, counts(rank(r).layer).pairs(to, r)));
  }
  Interleave(r);
}

void Simulation::Enter(int r, Phase phase) {
  Rank& me = rank(r);
  me.phase = phase;
  me.since_s = now_s_;
  const ExchangeCosts& costs = spec_.exchange;
  const auto n = static_cast<double>(tokens(r));
  const double pairs = n * spec_.experts.n_per_token;
  switch (phase) {
    case Phase::kBefore:
      return Work(r, spec_.compute.before_s.At(n));
    case Phase::kDispatch:
      me.dispatch_from_s = now_s_;
      me.volume = 0;
      if (cluster().n_ranks > 1) PrepareDispatch(r);
      return Work(r, cluster().n_ranks > 1 ? costs.phase_s + pairs * costs.pair_s : 0);
    case Phase::kShared:
      return Work(r, spec_.compute.shared_s.At(n));
    case Phase::kExperts:
      return Work(r, ReadWork(r, true) + ExpertWork(r));
    case Phase::kCombine:
      me.combine_from_s = now_s_;
      me.volume = 0;
      if (cluster().n_ranks > 1) PrepareCombine(r);
      return Work(r, cluster().n_ranks > 1 ? costs.phase_s : 0);
    case Phase::kAfter:
      return Work(r, ReadWork(r, false) + spec_.compute.after_s.At(n));
    case Phase::kHead:
      return Work(r, spec_.compute.head_s.At(n));
    case Phase::kDone:
      me.done_s = now_s_;
      [[fallthrough]];
    case Phase::kAwaitRows:
    case Phase::kAwaitResults:
      return GoOnWaiting(r);
  }
}

void Simulation::Next(int r) {
  Rank& me = rank(r);
  const bool sends = me.phase == Phase::kDispatch || me.phase == Phase::kCombine;
  if (sends || IsAwait(me.phase)) me.exposed_s += now_s_ - me.since_s;
  switch (me.phase) {
    case Phase::kExperts:
      me.dispatch_s += me.since_s - me.dispatch_from_s;
      return Enter(r, spec_.part == StepPart::kDispatch ? Phase::kDone : Phase::kCombine);
    case Phase::kAwaitResults:
      me.combine_s += now_s_ - me.combine_from_s;
      return Enter(r, Phase::kAfter);
    case Phase::kAfter:
      if (++me.layer < spec_.n_layers && spec_.part == StepPart::kWhole) return Enter(r, Phase::kBefore);
      return Enter(r, spec_.part == StepPart::kWhole ? Phase::kHead : Phase::kDone);
    default:
      return Enter(r, static_cast<Phase>(static_cast<int>(me.phase) + 1));
  }
}

// The next message of the phase onto its way, or on to the next phase.
void Simulation::SendNext(int r) {
  Rank& me = rank(r);
  if (me.to_send.empty()) return Next(r);
  const size_t at = me.to_send.front();
  me.to_send.pop_front();
  const Message& m = messages_[at];
  const ExchangeCosts& costs = spec_.exchange;
  if (is_near(m.source, m.receiver)) {
    near_bytes_ += m.bytes;
    me.doing = {Chore::Kind::kSendNear, at};
    return Work(r, costs.shared_memory.message_s + MoveWork(r, m.receiver, m.is_dispatch, m.bytes));
  }
  far_bytes_ += m.bytes;
  me.doing = {Chore::Kind::kSendFar, at};
  if (spec_.network.offloaded) return Work(r, costs.offloaded_message_s);
  Work(r, (m.piece == 0 ? costs.tcp.message_s : 0) + MoveWork(r, m.receiver, m.is_dispatch, m.bytes));
}

void Simulation::OnWorkDone(int r) {
  Rank& me = rank(r);
  const Chore done = me.doing;
  me.doing = {};
  const Message m = done.kind == Chore::Kind::kNone ? Message() : messages_[done.message];
  switch (done.kind) {
    case Chore::Kind::kSendNear:
      Push(Event::Kind::kSeen, now_s_ + spec_.exchange.shared_memory.latency_s, done.message);
      break;
    case Chore::Kind::kSendFar:
      Push(Event::Kind::kFirstByte, links_.Send(cluster().nic_of(r), m.bytes, now_s_), done.message);
      break;
    case Chore::Kind::kTake:
      Deliver(m);
      break;
    case Chore::Kind::kNone:
      break;
  }
  if (IsAwait(me.phase)) return GoOnWaiting(r);
  const bool sends = me.phase == Phase::kDispatch || me.phase == Phase::kCombine;
  return sends ? SendNext(r) : Next(r);
}

void Simulation::GoOnWaiting(int r) {
  Rank& me = rank(r);
  me.is_idle = false;
  if (me.phase != Phase::kDone) {
    const std::vector<int>& missing = me.phase == Phase::kAwaitRows ? me.rows_missing : me.results_missing;
    if (missing[static_cast<size_t>(me.layer)] == 0) return Next(r);
  }
  if (me.to_take.empty()) {
    me.is_idle = true;
    return;
  }
  me.doing = {Chore::Kind::kTake, me.to_take.front()};
  me.to_take.pop_front();
  const Message& m = messages_[me.doing.message];
  Work(r, MoveWork(r, m.source, m.is_dispatch, m.bytes));
}

void Simulation::Deliver(const Message& m) {
  const int each = cluster().ranks_per_host();
  const int first = m.for_host ? m.receiver / each * each : m.receiver;
  const int end = m.for_host ? first + each : first + 1;
  for (int r = first; r < end; ++r) {
    Rank& to = rank(r);
    std::vector<int>& all = m.is_dispatch ? to.rows_missing : to.results_missing;
    int& missing = all[static_cast<size_t>(m.layer)];
    if (m.is_last) --missing;
    const bool awaits_this = to.phase == (m.is_dispatch ? Phase::kAwaitRows : Phase::kAwaitResults);
    if (missing == 0 && to.is_idle && to.layer == m.layer && awaits_this) {
      to.is_idle = false;
      Work(r, 0);  // it must get a core first
    }
  }
}

void Simulation::OnEvent(const Event& event) {
  switch (event.kind) {
    case Event::Kind::kSliceEnd: {
      const int r = event.slice.rank;
      core(r).End(event.slice);
      if (event.slice.is_last) OnWorkDone(r);
      return StartSlice(core(r));
    }
    case Event::Kind::kSeen:
      return Deliver(messages_[event.message]);
    case Event::Kind::kFirstByte: {
      const Message& m = messages_[event.message];
      const double latency_s = spec_.network.offloaded ? 0 : spec_.exchange.tcp.latency_s;
      const double at_s = links_.Receive(cluster().nic_of(m.receiver), m.bytes, now_s_);
      return Push(Event::Kind::kLastByte, at_s + latency_s, event.message);
    }
    case Event::Kind::kLastByte: {
      const Message& m = messages_[event.message];
      if (spec_.network.offloaded) return Deliver(m);
      rank(m.receiver).to_take.push_back(event.message);
      if (rank(m.receiver).is_idle) GoOnWaiting(m.receiver);
      return;
    }
  }
}

StepTimes Simulation::Times() const {
  StepTimes out;
  const auto n = static_cast<double>(ranks_.size());
  out.exposed_least_s = ranks_[0].exposed_s;
  const int n_layers = spec_.part == StepPart::kWhole ? spec_.n_layers : 1;
  for (const Rank& r : ranks_) {
    out.step_s = std::max(out.step_s, r.done_s);
    out.exposed_s += r.exposed_s / n;
    out.exposed_least_s = std::min(out.exposed_least_s, r.exposed_s);
    out.dispatch_s += r.dispatch_s / n / n_layers;
    out.combine_s += r.combine_s / n / n_layers;
  }
  if (spec_.part == StepPart::kWhole) {
    // The plan goes to every host, and what was sampled comes back.
    const double hops = std::ceil(std::log2(static_cast<double>(cluster().n_hosts)));
    out.step_s += spec_.compute.step_s + 2 * hops * spec_.network.latency_s;
  }
  out.near_bytes = near_bytes_;
  out.far_bytes = far_bytes_;
  out.nic_bytes_max = links_.bytes_max();
  out.nic_busy_s = links_.busy_max_s();
  return out;
}

StepTimes Simulation::Run() {
  for (int r = 0; r < cluster().n_ranks; ++r) {
    Enter(r, spec_.part == StepPart::kWhole      ? Phase::kBefore
             : spec_.part == StepPart::kDispatch ? Phase::kDispatch
                                                 : Phase::kCombine);
  }
  while (!events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    now_s_ = event.at_s;
    OnEvent(event);
  }
  for (const Rank& r : ranks_) LONGSHELF_CHECK(r.phase == Phase::kDone);
  return Times();
}

}  // namespace

StepTimes SimulateStep(const StepSpec& spec, ExpertSampler& sampler, std::mt19937_64& random) {
  return Simulation(spec, sampler, random).Run();
}

}  // namespace longshelf::simulation
