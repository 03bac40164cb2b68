#include "step_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string_view>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/status.h"
#include "figures.h"
#include "simulation/expert_bytes.h"
#include "simulation/step.h"

namespace longshelf::bench {
namespace {

using nlohmann::json;
using simulation::Curve;

constexpr uint64_t kSeed = 1;
// What the shards of one machine have between them: no wire.
const simulation::Network kLoopback = {.name = "loopback", .bytes_per_s = 1e15, .latency_s = 0};
// Two shards cannot tell apart what an exchange costs and what each of its messages costs, as each has one. Nearly
// everything is done for a message.
constexpr double kMessageOfPhase = 4;
// Two shards on one core go over to each other so often in an exchange.
constexpr double kSwitchesOfExchange = 2;
// What is measured is never taken for fixed costs alone.
constexpr double kLeastOfBulk = 0.05;
// Of expert_transport_bench.
constexpr simulation::ExpertShape kFlashRows = {
    .n_experts = 256, .n_per_token = 6, .row_bytes = 4096 + 32, .result_bytes = 8192};

absl::StatusOr<std::vector<json>> Lines(const std::string& path) {
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::vector<json> out;
  for (std::string line; std::getline(in, line);) {
    out.push_back(json::parse(line, nullptr, /*allow_exceptions=*/false));
    if (!out.back().is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": not JSON: ", line));
  }
  return out;
}

// One number that the model must give.
struct Point {
  std::string what;   // "dispatch", "combine", "step"
  std::string path;   // "shared_memory", "tcp"
  std::string where;  // routing, or the name of a model
  int n_cores;
  int n_ranks;
  int n_tokens;  // of each
  double measured_us;
  bool is_fit() const { return n_ranks == 2 && (n_tokens == 1 || n_tokens == 64); }
};

// A number of the model that is fitted: above 0.
struct Parameter {
  const char* name;
  double value;
};

// Everything in fitting: parameters in, the sum of squares of logarithms of ratios out. Steps each parameter up and
// down as long as that helps, with ever smaller factors.
void Fit(std::vector<Parameter>& parameters, const std::function<double()>& error) {
  double best = error();
  for (double factor = 3; factor > 1.02; factor = std::sqrt(factor)) {
    bool improved = true;
    for (int sweep = 0; improved && sweep < 20; ++sweep) {
      improved = false;
      for (Parameter& parameter : parameters) {
        for (const double f : {factor, 1 / factor}) {
          const double before = parameter.value;
          parameter.value *= f;
          if (const double now = error(); now < best - 1e-9) {
            best = now;
            improved = true;
            break;
          }
          parameter.value = before;
        }
      }
    }
  }
}

double SquaredLog(double predicted, double measured) {
  const double ratio = std::log(predicted / measured);
  return ratio * ratio;
}

class StepModel {
 public:
  absl::Status ReadExchanges(const std::string& path);
  absl::Status ReadSteps(const std::string& path);
  void FitExchanges();
  void FitExperts();
  void FitSteps();
  void Print(std::ostream& out) const;

 private:
  enum Index : size_t { kPhase, kPair };
  // By shards of two that have one core or two, path and phase: tokens, and seconds until all of them were there.
  using Bulks = std::map<std::tuple<int, std::string, std::string>, std::map<int, double>>;
  simulation::ExchangeCosts Costs() const;
  double SwitchSeconds(bool is_tcp) const;
  double TcpMessageSeconds() const;
  Curve BulkCurve(const char* path, const char* phase, bool on_one_core) const;
  simulation::BulkCosts Bulk(const char* path, bool on_one_core) const;
  simulation::StepSpec SpecOf(const Point& point) const;
  double Predict(const Point& point) const;
  double PredictExchange(const Point& point) const;
  double PredictStep(const Point& point) const;
  void PrintCosts(std::ostream& out) const;
  void PrintErrors(std::ostream& out, const std::string& title, const std::vector<Point>& points) const;
  void PrintOrder(std::ostream& out, const std::string& title, const std::vector<Point>& points) const;

  std::vector<Parameter> parameters_ = {{"phase_s", 0.5e-6}, {"pair_s", 20e-9}};
  Bulks bulks_;
  // Seconds, by cores of two shards: until one sees the other's flag; until it has the other's message by TCP; until it
  // has seen that there is none.
  std::map<int, double> flag_s_;
  std::map<int, double> message_s_;
  std::map<int, double> look_s_;
  std::vector<Point> exchanges_;
  std::vector<Point> steps_;

  simulation::ExpertShape step_rows_;
  int n_layers_ = 0;
  simulation::ComputeCosts parts_;  // of one thread, alone
  double compute_scale_ = 1;        // of two threads that share a memory
  std::vector<uint32_t> recorded_;
  struct Moe {
    int n_tokens;
    double measured_us;     // of a layer
    std::vector<int> rows;  // of all experts of all layers
  };
  std::vector<Moe> moes_;
  std::vector<Parameter> expert_us_;  // by rows: kExpertRows
  double shared_ratio_ = 1;
};

constexpr std::array<double, 6> kExpertRows = {1, 4, 16, 64, 256, 1024};

absl::Status StepModel::ReadExchanges(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<json> lines, Lines(path));
  for (const json& line : lines) {
    const std::string way = line["path"];
    const int cores = line["cores"];
    if (line.contains("ping_flag_us")) {
      flag_s_[cores] = double{line["ping_flag_us"]} * 1e-6;
      if (way == "tcp") {
        message_s_[cores] = double{line["ping_message_us"]} * 1e-6;
        look_s_[cores] = double{line["look_us"]} * 1e-6;
      }
      continue;
    }
    const int shards = line["shards"];
    const int tokens = line["tokens"];
    const std::string routing = line["routing"];
    for (const char* what : {"dispatch", "combine"}) {
      const double us = line[absl::StrCat(what, "_quiet_us")];
      if (routing == "neighbour") {
        bulks_[{cores, way, what}][tokens] = us * 1e-6;
      } else {
        exchanges_.push_back({what, way, routing, cores, shards, tokens, us});
      }
    }
  }
  if (bulks_.size() != 8 || flag_s_.size() != 2 || message_s_.size() != 2 || exchanges_.empty())
    return absl::InvalidArgumentError(absl::StrCat(path, ": lines are missing"));
  return absl::OkStatus();
}

absl::Status StepModel::ReadSteps(const std::string& path) {
  ASSIGN_OR_RETURN(const std::vector<json> lines, Lines(path));
  std::vector<std::pair<double, double>> before;
  std::vector<std::pair<double, double>> after;
  std::vector<std::pair<double, double>> head;
  std::vector<double> ratios;
  std::map<int, Moe> moes;
  // What was measured at different times counts as if the machine had always been as fast as at first.
  double first_reference_us = 0;
  const auto speed = [&](const json& line) {
    const double reference_us = line["reference_us"];
    if (first_reference_us == 0) first_reference_us = reference_us;
    return first_reference_us / reference_us;
  };
  for (const json& line : lines) {
    const std::string kind = line["kind"];
    if (kind == "model") {
      n_layers_ = line["layers"];
      step_rows_ = {.n_experts = line["experts"],
                    .n_per_token = line["experts_per_token"],
                    .row_bytes = line["row_bytes"],
                    .result_bytes = line["result_bytes"]};
    } else if (kind == "layer") {
      const double n = line["tokens"];
      const double to_s = speed(line) * 1e-6;
      before.emplace_back(n, double{line["before_us"]} * to_s);
      after.emplace_back(n, double{line["after_us"]} * to_s);
      head.emplace_back(n, double{line["head_us"]} * to_s);
      Moe& moe = moes[line["tokens"]];
      moe.n_tokens = line["tokens"];
      moe.measured_us = double{line["moe_us"]} * speed(line);
    } else if (kind == "rows") {
      moes[line["tokens"]].rows = line["rows"].get<std::vector<int>>();
    } else if (kind == "routing") {
      recorded_ = line["experts"].get<std::vector<uint32_t>>();
    } else if (kind == "expert") {
      if (line["rows"] <= 64) ratios.push_back(double{line["shared_us"]} / double{line["routed_us"]});
    } else if (kind == "step") {
      steps_.push_back({"step", line["path"], "mid", line["cores"], line["shards"], line["tokens"],
                        double{line["step_quiet_us"]} * speed(line)});
    }
  }
  if (before.empty() || steps_.empty() || recorded_.empty() || n_layers_ == 0 || ratios.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": lines are missing"));
  }
  const auto ascending = [](std::vector<std::pair<double, double>> points) {
    std::sort(points.begin(), points.end());
    return Curve(std::move(points));
  };
  parts_.before_s = ascending(before);
  parts_.after_s = ascending(after);
  parts_.head_s = ascending(head);
  std::sort(ratios.begin(), ratios.end());
  shared_ratio_ = ratios[ratios.size() / 2];
  for (auto& [tokens, moe] : moes) moes_.push_back(std::move(moe));
  return absl::OkStatus();
}

// Until another shard of the same core has its turn and has looked.
double StepModel::SwitchSeconds(bool is_tcp) const { return flag_s_.at(1) + (is_tcp ? look_s_.at(2) : 0); }

// What the kernel does for a message, on either side: without a wire nothing else takes time.
double StepModel::TcpMessageSeconds() const { return std::max(0.0, message_s_.at(1) - SwitchSeconds(true)); }

// What is left of a message each way when everything is taken off that does not grow with its bytes.
Curve StepModel::BulkCurve(const char* path, const char* phase, bool on_one_core) const {
  const auto value = [this](Index i) { return parameters_[i].value; };
  const bool is_tcp = std::string_view(path) == "tcp";
  const bool is_dispatch = std::string_view(phase) == "dispatch";
  const double at_once = on_one_core ? 2 : 1;
  std::vector<std::pair<double, double>> points;
  for (const auto& [tokens, seconds] : bulks_.at({on_one_core ? 1 : 2, path, phase})) {
    const auto bytes = static_cast<double>(is_dispatch ? simulation::DispatchMessageBytes(kFlashRows, tokens, tokens)
                                                       : simulation::CombineMessageBytes(kFlashRows, tokens));
    double fixed = value(kPhase) + (is_tcp ? TcpMessageSeconds() : value(kPhase) * kMessageOfPhase);
    if (is_dispatch) fixed += tokens * value(kPair);
    if (!on_one_core) fixed += is_tcp ? 0 : flag_s_.at(2);
    fixed *= at_once;
    if (on_one_core) fixed += kSwitchesOfExchange * SwitchSeconds(is_tcp);
    // Noise must not make more bytes cheaper.
    const double last = points.empty() ? 0 : points.back().second;
    points.emplace_back(at_once * bytes, std::max({seconds - fixed, seconds * kLeastOfBulk, last * 1.001}));
  }
  return Curve(std::move(points));
}

simulation::BulkCosts StepModel::Bulk(const char* path, bool on_one_core) const {
  return {.rows_s = BulkCurve(path, "dispatch", on_one_core), .results_s = BulkCurve(path, "combine", on_one_core)};
}

simulation::ExchangeCosts StepModel::Costs() const {
  const auto value = [this](Index i) { return parameters_[i].value; };
  simulation::ExchangeCosts costs;
  costs.phase_s = value(kPhase);
  costs.pair_s = value(kPair);
  costs.switch_s = SwitchSeconds(false);
  costs.tcp_switch_s = SwitchSeconds(true);
  costs.shared_memory = {.message_s = value(kPhase) * kMessageOfPhase,
                         .latency_s = flag_s_.at(2),
                         .between_cores = Bulk("shared_memory", false),
                         .on_one_core = Bulk("shared_memory", true)};
  costs.tcp = {.message_s = TcpMessageSeconds(), .between_cores = Bulk("tcp", false), .on_one_core = Bulk("tcp", true)};
  return costs;
}

simulation::StepSpec StepModel::SpecOf(const Point& point) const {
  simulation::StepSpec spec;
  const bool is_tcp = point.path == "tcp";
  spec.cluster = {.n_ranks = point.n_ranks, .n_hosts = is_tcp ? point.n_ranks : 1, .cores_per_host = point.n_cores};
  spec.one_machine = true;
  spec.tokens.assign(static_cast<size_t>(point.n_ranks), point.n_tokens);
  spec.exchange = Costs();
  spec.network = kLoopback;
  return spec;
}

double StepModel::PredictExchange(const Point& point) const {
  simulation::StepSpec spec = SpecOf(point);
  spec.experts = kFlashRows;
  spec.part = point.what == "dispatch" ? simulation::StepPart::kDispatch : simulation::StepPart::kCombine;
  std::mt19937_64 random(kSeed);
  auto sampler = simulation::ExpertSampler::Create(*simulation::ParseRouting(point.where), spec.experts, random);
  // As the benchmark does: rounds with other tokens, and the median of them. Many tokens are all alike.
  std::vector<double> rounds;
  const int n_rounds = std::clamp(64 / point.n_tokens, 1, 15);
  for (int i = 0; i < n_rounds; ++i) rounds.push_back(simulation::SimulateStep(spec, *sampler, random).step_s * 1e6);
  return Median(std::move(rounds));
}

double StepModel::PredictStep(const Point& point) const {
  simulation::StepSpec spec = SpecOf(point);
  spec.experts = step_rows_;
  spec.n_layers = n_layers_;
  std::vector<std::pair<double, double>> expert;
  for (size_t i = 0; i < kExpertRows.size(); ++i) expert.emplace_back(kExpertRows[i], expert_us_[i].value * 1e-6);
  const Curve expert_s(expert);
  spec.compute.before_s = parts_.before_s.Times(compute_scale_);
  spec.compute.shared_s = expert_s.Times(shared_ratio_ * compute_scale_);
  spec.compute.expert_s = expert_s.Times(compute_scale_);
  spec.compute.after_s = parts_.after_s.Times(compute_scale_);
  spec.compute.head_s = parts_.head_s.Times(compute_scale_);
  simulation::RoutingSpec routing;
  routing.kind = simulation::RoutingSpec::Kind::kRecorded;
  routing.recorded = recorded_;
  std::mt19937_64 random(kSeed);
  auto sampler = simulation::ExpertSampler::Create(routing, spec.experts, random);
  return simulation::SimulateStep(spec, *sampler, random).step_s * 1e6;
}

double StepModel::Predict(const Point& point) const {
  return point.what == "step" ? PredictStep(point) : PredictExchange(point);
}

void StepModel::FitExchanges() {
  Fit(parameters_, [this] {
    double sum = 0;
    for (const Point& point : exchanges_) {
      if (point.is_fit()) sum += SquaredLog(Predict(point), point.measured_us);
    }
    return sum;
  });
}

// One expert by its rows, from layers whose routing is known: all of a layer's experts and the shared one.
void StepModel::FitExperts() {
  for (const double rows : kExpertRows) expert_us_.push_back({"expert_us", 60 + 20 * rows});
  Fit(expert_us_, [this] {
    std::vector<std::pair<double, double>> points;
    for (size_t i = 0; i < kExpertRows.size(); ++i) points.emplace_back(kExpertRows[i], expert_us_[i].value);
    const Curve curve(points);
    double sum = 0;
    for (const Moe& moe : moes_) {
      double us = n_layers_ * shared_ratio_ * curve.At(moe.n_tokens);
      for (const int n : moe.rows) us += curve.At(n);
      sum += SquaredLog(us / n_layers_, moe.measured_us);
    }
    return sum;
  });
}

void StepModel::FitSteps() {
  std::vector<Parameter> scale = {{"compute_scale", 1}};
  Fit(scale, [&] {
    compute_scale_ = scale[0].value;
    double sum = 0;
    for (const Point& point : steps_) {
      if (point.is_fit()) sum += SquaredLog(Predict(point), point.measured_us);
    }
    return sum;
  });
  compute_scale_ = scale[0].value;
}

void StepModel::PrintCosts(std::ostream& out) const {
  out << "fitted\n";
  for (const Parameter& p : parameters_) out << absl::StrFormat("  %-16s %.4g\n", p.name, p.value);
  out << absl::StrFormat("  %-16s %.4g\n", "compute_scale", compute_scale_);
  out << absl::StrFormat("  %-16s %.4g\n", "shared_ratio", shared_ratio_);
  for (size_t i = 0; i < expert_us_.size(); ++i) {
    out << absl::StrFormat("  expert of %4.0f rows %.1f us\n", kExpertRows[i], expert_us_[i].value);
  }
  for (const bool on_one_core : {false, true}) {
    for (const char* path : {"shared_memory", "tcp"}) {
      for (const char* phase : {"dispatch", "combine"}) {
        out << path << ' ' << phase << (on_one_core ? ", on one core" : "") << ", bytes: us\n ";
        const Curve bulk = BulkCurve(path, phase, on_one_core);
        for (const auto& [bytes, s] : bulk.points()) {
          out << absl::StrFormat(" {%.3g, %.3ge-6}", bytes, s * 1e6);
        }
        out << '\n';
      }
    }
  }
}

void StepModel::PrintErrors(std::ostream& out, const std::string& title, const std::vector<Point>& points) const {
  struct Sum {
    double error = 0;
    int n = 0;
  };
  std::map<std::string, Sum> sums;
  out << '\n' << title << ": what path where cores shards tokens, measured us, predicted us, error\n";
  for (const Point& p : points) {
    const double predicted = Predict(p);
    const double error = predicted / p.measured_us - 1;
    out << absl::StrFormat("  %-8s %-13s %-8s %d %d %3d %11.1f %11.1f %+6.0f %%%s\n", p.what, p.path, p.where,
                           p.n_cores, p.n_ranks, p.n_tokens, p.measured_us, predicted, 100 * error,
                           p.is_fit() ? " fitted" : "");
    const bool enough_cores = p.n_ranks <= p.n_cores;
    for (const std::string& key :
         {std::string(p.is_fit() ? "1 fitted" : "2 predicted"),
          p.is_fit() ? std::string("1 fitted")
                     : absl::StrCat("3 predicted, ", p.path,
                                    enough_cores ? ", a core for each shard" : ", shards take turns")}) {
      sums[key].error += std::abs(error);
      ++sums[key].n;
      if (p.is_fit()) break;
    }
  }
  out << "mean absolute error of " << title << '\n';
  for (const auto& [key, sum] : sums) {
    out << absl::StrFormat("  %-60s %.1f %% of %d\n", key.substr(2), 100 * sum.error / sum.n, sum.n);
  }
}

// Shared memory or TCP, and how many shards, where what was measured differs by over 20 %.
void StepModel::PrintOrder(std::ostream& out, const std::string& title, const std::vector<Point>& points) const {
  int n = 0;
  int n_right = 0;
  std::vector<double> predicted;
  for (const Point& p : points) predicted.push_back(Predict(p));
  for (size_t i = 0; i < points.size(); ++i) {
    for (size_t j = i + 1; j < points.size(); ++j) {
      const Point& a = points[i];
      const Point& b = points[j];
      const bool same = a.what == b.what && a.where == b.where && a.n_tokens == b.n_tokens && a.n_cores == b.n_cores;
      const bool other_path = a.n_ranks == b.n_ranks && a.path != b.path;
      const bool other_ranks = a.n_ranks != b.n_ranks && a.path == b.path;
      if (!same || !(other_path || other_ranks)) continue;
      const double gap = std::max(a.measured_us / b.measured_us, b.measured_us / a.measured_us);
      if (gap <= 1.2) continue;
      ++n;
      n_right += (a.measured_us < b.measured_us) == (predicted[i] < predicted[j]) ? 1 : 0;
    }
  }
  out << absl::StrFormat("order of alternatives, %s: %d of %d right\n", title, n_right, n);
}

void StepModel::Print(std::ostream& out) const {
  PrintCosts(out);
  PrintErrors(out, "exchanges", exchanges_);
  PrintOrder(out, "exchanges", exchanges_);
  if (steps_.empty()) return;
  PrintErrors(out, "steps", steps_);
  PrintOrder(out, "steps", steps_);
}

}  // namespace

absl::Status RunStepModel(const std::string& exchanges, const std::string& steps, std::ostream& out) {
  StepModel model;
  RETURN_IF_ERROR(model.ReadExchanges(exchanges));
  model.FitExchanges();
  if (!steps.empty()) {
    RETURN_IF_ERROR(model.ReadSteps(steps));
    model.FitExperts();
    model.FitSteps();
  }
  model.Print(out);
  return absl::OkStatus();
}

}  // namespace longshelf::bench
