#include "simulation/network.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace longshelf::simulation {
namespace {

constexpr double kBitsPerByte = 8;
// Whoever means more has made a mistake in a unit.
constexpr double kBytesPerSecondMin = 1e5;
constexpr double kBytesPerSecondMax = 1e13;
constexpr double kLatencyMax = 1;

struct Unit {
  const char* suffix;
  double scale;
};

absl::Status Bad(const std::string& text, const std::string& why) {
  std::vector<std::string> names;
  for (const Network& preset : NetworkPresets()) names.push_back(preset.name);
  return absl::InvalidArgumentError(
      absl::StrCat("network \"", text, "\": ", why,
                   "; must be BANDWIDTH,LATENCY such as 25Gbit,20us, with \",rdma\" behind it when the interface moves "
                   "rows by itself, or one of ",
                   absl::StrJoin(names, ", ")));
}

// A positive number before one of `units`; 0: it is not.
double Quantity(absl::string_view text, std::initializer_list<Unit> units) {
  for (const Unit& unit : units) {
    absl::string_view number = text;
    double value = 0;
    if (!absl::ConsumeSuffix(&number, unit.suffix)) continue;
    if (number.empty() || number.find_first_not_of("0123456789.") != absl::string_view::npos) return 0;
    return absl::SimpleAtod(number, &value) && std::isfinite(value) ? value * unit.scale : 0;
  }
  return 0;
}

}  // namespace

std::vector<Network> NetworkPresets() {
  const auto gbit = [](double n) { return n * 1e9 / kBitsPerByte; };
  return {{"1g", gbit(1), 60e-6, false},        {"10g", gbit(10), 30e-6, false},
          {"25g", gbit(25), 20e-6, false},      {"100g", gbit(100), 15e-6, false},
          {"200g-rdma", gbit(200), 3e-6, true}, {"400g-rdma", gbit(400), 3e-6, true}};
}

absl::StatusOr<Network> ParseNetwork(const std::string& text) {
  for (Network& preset : NetworkPresets()) {
    if (preset.name == text) return std::move(preset);
  }
  const std::vector<std::string> parts = absl::StrSplit(text, ',');
  if (parts.size() < 2 || parts.size() > 3) return Bad(text, "unknown");
  Network out;
  out.name = text;
  out.bytes_per_s = Quantity(parts[0], {{"Tbit", 1e12 / kBitsPerByte},
                                        {"Gbit", 1e9 / kBitsPerByte},
                                        {"Mbit", 1e6 / kBitsPerByte},
                                        {"GB/s", 1e9},
                                        {"MB/s", 1e6}});
  if (!(out.bytes_per_s >= kBytesPerSecondMin && out.bytes_per_s <= kBytesPerSecondMax)) {
    return Bad(text, absl::StrCat("the bandwidth \"", parts[0], "\" is not from 0.8Mbit to 80Tbit"));
  }
  out.latency_s = Quantity(parts[1], {{"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}});
  if (!(out.latency_s > 0 && out.latency_s <= kLatencyMax)) {
    return Bad(text, absl::StrCat("the latency \"", parts[1], "\" is not from above 0 to 1000ms"));
  }
  if (parts.size() == 3 && parts[2] != "rdma" && parts[2] != "tcp") {
    return Bad(text, absl::StrCat("\"", parts[2], "\" is neither rdma nor tcp"));
  }
  out.offloaded = parts.size() == 3 && parts[2] == "rdma";
  return out;
}

}  // namespace longshelf::simulation
