#include "simulation/costs.h"

namespace longshelf::simulation {

// What `step_model` prints for bench/exchanges.jsonl. Copying and reading past the caches, half on either side, and
// what the kernel does for TCP.
const ExchangeCosts& MeasuredExchangeCosts() {
  static const ExchangeCosts costs = [] {
    const Curve copy({{4e3, 0.61e-6}, {24.6e3, 1.58e-6}, {197e3, 12.3e-6}, {1.57e6, 97e-6}, {12.6e6, 1070e-6}});
    const Curve tcp({{4e3, 1.93e-6}, {24.6e3, 8.5e-6}, {197e3, 67.7e-6}, {1.57e6, 537e-6}, {12.6e6, 4770e-6}});
    ExchangeCosts c;
    c.phase_s = 0.52e-6;
    c.pair_s = 36e-9;
    c.shared_memory = {
        .message_s = 0.26e-6, .latency_s = 0.1e-6, .send_s = copy.Times(0.42), .receive_s = copy.Times(0.42)};
    c.tcp = {.message_s = 8.7e-6, .latency_s = 0.15e-6, .send_s = tcp.Times(0.5), .receive_s = tcp.Times(0.5)};
    c.offloaded_message_s = 0.5e-6;
    c.switch_s = 0.38e-6;
    c.tcp_switch_s = 1.6e-6;
    return c;
  }();
  return costs;
}

// One thread on matrices as wide as those of Flash (`group_step_bench --model flash-small --parts`): an expert has 25.2
// million weights. Attention and index scores as bench/README.md has them.
const ComputeRates& MeasuredComputeRates() {
  static const ComputeRates rates = [] {
    ComputeRates r;
    r.routed_weight_s =
        Curve({{1, 32e-12}, {2, 41e-12}, {4, 56e-12}, {8, 108e-12}, {16, 200e-12}, {64, 690e-12}, {512, 5000e-12}});
    r.other_weight_s = Curve({{1, 60e-12}, {4, 92e-12}, {8, 150e-12}, {16, 270e-12}, {64, 800e-12}, {512, 5500e-12}});
    r.attention_flop_s = Curve({{1, 16e-12}, {8, 8 * 14e-12}, {64, 64 * 8e-12}});
    r.index_flop_s = Curve({{1, 24e-12}, {8, 8 * 20e-12}, {64, 64 * 8e-12}});
    r.added_value_s = 0.3e-9;
    r.step_s = 0.35e-3;
    return r;
  }();
  return rates;
}

}  // namespace longshelf::simulation
