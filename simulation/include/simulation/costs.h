#pragma once

#include <utility>
#include <vector>

namespace longshelf::simulation {

// Seconds by a number, of rows or of bytes: nothing at 0, linear between points and beyond the last one.
class Curve {
 public:
  Curve() = default;
  // points: (number, seconds), ascending numbers above 0.
  explicit Curve(std::vector<std::pair<double, double>> points) : points_(std::move(points)) {}
  static Curve PerUnit(double seconds) { return Curve({{1.0, seconds}}); }
  double At(double x) const;
  Curve Times(double factor) const;
  const std::vector<std::pair<double, double>>& points() const { return points_; }

 private:
  std::vector<std::pair<double, double>> points_;
};

// Bringing rows there, and results back, by bytes that pass through a core at that time. Half of it on the sender's
// core, half on the receiver's, which takes them or reads them where they lie.
struct BulkCosts {
  Curve rows_s;
  Curve results_s;
};

// One way for messages, without the wire.
struct WayCosts {
  double message_s = 0;  // of each, on the sender's core
  double latency_s = 0;  // until another core sees it
  BulkCosts between_cores = {};
  BulkCosts on_one_core = {};  // ranks that take turns find in its caches what the other one left there
  const Curve& bulk_s(bool is_dispatch, bool on_one) const {
    const BulkCosts& costs = on_one ? on_one_core : between_cores;
    return is_dispatch ? costs.rows_s : costs.results_s;
  }
};

// What exchanges cost on a kind of machine.
struct ExchangeCosts {
  double phase_s = 0;  // of a dispatch or a combine, whatever it moves
  double pair_s = 0;   // sorting one (token, expert) pair, before it is sent
  WayCosts shared_memory;
  WayCosts tcp;
  double offloaded_message_s = 0;  // giving a message to an interface that moves it by itself
  double switch_s = 0;             // a core goes over to another rank, or a waiting one looks whether it must wait on
  double tcp_switch_s = 0;         // the same where some messages come by TCP
  double quantum_s = 3e-3;         // until it must, when others wait
};

// With everything that a core does in an exchange taking 1 / factor of the time.
ExchangeCosts Faster(const ExchangeCosts& costs, double factor);

// What a step computes on one rank.
struct ComputeCosts {
  Curve before_s;     // of a layer, by own tokens: everything before rows are sent
  Curve shared_s;     // the shared expert, by own tokens: while rows travel
  Curve expert_s;     // one expert, by its rows
  Curve after_s;      // adding results, by own tokens
  Curve head_s;       // of a step, by own tokens
  double step_s = 0;  // between two steps: plan, sampling, answers
};

// What one thread computes, whatever the model: by the rows that a weight is multiplied with at a time, all of them
// together.
struct ComputeRates {
  Curve routed_weight_s;   // one weight of a routed expert, FP4
  Curve other_weight_s;    // one weight of anything else
  Curve attention_flop_s;  // of each of so many tokens
  Curve index_flop_s;
  double added_value_s = 0;  // one number of one result that is added to a token's
  double step_s = 0;         // between two steps
};

// As measured on two cores of a server (bench/README.md, step_model).
const ExchangeCosts& MeasuredExchangeCosts();
const ComputeRates& MeasuredComputeRates();

}  // namespace longshelf::simulation
