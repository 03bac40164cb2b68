#include "simulation/costs.h"

namespace longshelf::simulation {

const ExchangeCosts& MeasuredExchangeCosts() {
  static const ExchangeCosts costs = [] {
    ExchangeCosts c;
    c.phase_s = 1e-6;
    c.pair_s = 30e-9;
    c.shared_memory = {.message_s = 0.3e-6,
                       .latency_s = 0.3e-6,
                       .send_s = Curve::PerUnit(0.08e-9),
                       .receive_s = Curve::PerUnit(0.08e-9)};
    c.tcp = {
        .message_s = 4e-6, .latency_s = 8e-6, .send_s = Curve::PerUnit(0.25e-9), .receive_s = Curve::PerUnit(0.25e-9)};
    c.offloaded_message_s = 0.5e-6;
    c.eager_bytes = 65536;
    c.switch_s = 1.5e-6;
    return c;
  }();
  return costs;
}

const ComputeRates& MeasuredComputeRates() {
  static const ComputeRates rates = [] {
    ComputeRates r;
    r.routed_weight_s = Curve({{1, 40e-12}, {512, 512 * 12e-12}});
    r.other_weight_s = Curve({{1, 50e-12}, {512, 512 * 12e-12}});
    r.attention_flop_s = 1e-11;
    r.index_flop_s = 1e-11;
    r.added_value_s = 1e-10;
    r.step_s = 0.3e-3;
    return r;
  }();
  return rates;
}

}  // namespace longshelf::simulation
