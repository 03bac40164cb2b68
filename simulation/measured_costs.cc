#include "simulation/costs.h"

namespace longshelf::simulation {

// What `step_model` prints for bench/exchanges.jsonl.
const ExchangeCosts& MeasuredExchangeCosts() {
  static const ExchangeCosts costs = [] {
    ExchangeCosts c;
    c.phase_s = 0.32e-6;
    c.pair_s = 28e-9;
    c.shared_memory.message_s = 1.28e-6;
    c.shared_memory.latency_s = 0.17e-6;
    c.shared_memory.between_cores = {.rows_s = Curve({{4.29e3, 1.37e-6},
                                                      {16.8e3, 2.13e-6},
                                                      {66.9e3, 5.09e-6},
                                                      {267e3, 17.7e-6},
                                                      {1.07e6, 67.8e-6},
                                                      {4.28e6, 180e-6},
                                                      {12.8e6, 589e-6}}),
                                     .results_s = Curve({{8.26e3, 0.72e-6},
                                                         {32.8e3, 4.21e-6},
                                                         {131e3, 16.5e-6},
                                                         {524e3, 68.4e-6},
                                                         {2.1e6, 213e-6},
                                                         {8.39e6, 816e-6},
                                                         {25.2e6, 2790e-6}})};
    c.shared_memory.on_one_core = {.rows_s = Curve({{8.58e3, 2.65e-6},
                                                    {33.5e3, 2.66e-6},
                                                    {134e3, 3.61e-6},
                                                    {535e3, 7.8e-6},
                                                    {2.14e6, 48.4e-6},
                                                    {8.55e6, 324e-6},
                                                    {25.7e6, 1090e-6}}),
                                   .results_s = Curve({{16.5e3, 0.27e-6},
                                                       {65.7e3, 2.1e-6},
                                                       {262e3, 8.89e-6},
                                                       {1.05e6, 42e-6},
                                                       {4.19e6, 359e-6},
                                                       {16.8e6, 1620e-6},
                                                       {50.3e6, 6590e-6}})};
    c.tcp.message_s = 9.5e-6;
    c.tcp.between_cores = {.rows_s = Curve({{4.29e3, 4.72e-6},
                                            {16.8e3, 7.11e-6},
                                            {66.9e3, 44.6e-6},
                                            {267e3, 110e-6},
                                            {1.07e6, 430e-6},
                                            {4.28e6, 2020e-6},
                                            {12.8e6, 7800e-6}}),
                           .results_s = Curve({{8.26e3, 4.28e-6},
                                               {32.8e3, 12.2e-6},
                                               {131e3, 60e-6},
                                               {524e3, 209e-6},
                                               {2.1e6, 954e-6},
                                               {8.39e6, 3600e-6},
                                               {25.2e6, 15700e-6}})};
    c.tcp.on_one_core = {.rows_s = Curve({{8.58e3, 3.71e-6},
                                          {33.5e3, 10.6e-6},
                                          {134e3, 64.9e-6},
                                          {535e3, 165e-6},
                                          {2.14e6, 844e-6},
                                          {8.55e6, 3510e-6},
                                          {25.7e6, 14300e-6}}),
                         .results_s = Curve({{16.5e3, 5.34e-6},
                                             {65.7e3, 18.5e-6},
                                             {262e3, 79.6e-6},
                                             {1.05e6, 359e-6},
                                             {4.19e6, 1670e-6},
                                             {16.8e6, 6950e-6},
                                             {50.3e6, 26500e-6}})};
    c.offloaded_message_s = 0.5e-6;
    c.switch_s = 0.88e-6;
    c.tcp_switch_s = 2.00e-6;
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
