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

}  // namespace longshelf::simulation
