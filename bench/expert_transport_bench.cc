// What an exchange of expert rows costs, by the way that rows take; by mpirun. Every round writes the rows anew,
// exchanges them and reads every line from elsewhere once, as a quantiser, a network and a product would. A line per
// number of tokens: medians over rounds of the slowest shard, and ratios to the baseline.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "common/status.h"
#include "engine/comm/baseline_expert_transport.h"
#include "engine/comm/direct_expert_transport.h"
#include "engine/comm/mpi_session.h"
#include "engine/comm/row_way.h"
#include "exchange_rounds.h"
#include "figures.h"
#include "group_of_shards.h"
#include "ping.h"
#include "plain_transport.h"

namespace longshelf {
namespace {

using engine::ExpertTransport;

constexpr size_t kTokensMax = 4096;
constexpr size_t kTokensToWarmUp = 512;
constexpr int kRoundsToWarmUp = 10;
constexpr int kPasses = 3;

struct Settings {
  std::string run_dir;
  std::string shm_dir;
  int n_rounds = 51;
  std::vector<std::string> tokens = {"1", "8", "64", "512"};
  std::vector<std::string> routings = {"uniform"};
  std::vector<std::string> bulk;
  std::vector<std::string> ways = {"baseline", "plain", "messages", "streamed", "pushed", "pulled", "direct", "copy"};
  bool sums = false;
  bool pings = false;
  bool json = false;
};

struct Way {
  std::string name;
  std::unique_ptr<ExpertTransport> transport;  // null: a copy in place of an exchange
  double start_us = 0;                         // making it, and choosing among ways
};

// By round.
struct Figures {
  std::vector<double> dispatch;
  std::vector<double> with_writing;  // dispatch, and rows written before
  std::vector<double> combine;
};

// What is measured in each way.
struct Case {
  std::shared_ptr<bench::Routing> routing;
  size_t n_tokens = 0;
  std::vector<Figures> figures;  // by way
};

absl::StatusOr<Way> MakeWay(engine::MpiSession& session, const Settings& settings, const std::string& name) {
  engine::DirectTransportOptions options;
  options.n_experts = bench::kExperts;
  options.generation = session.generation();
  options.n_tokens_max = kTokensMax;
  options.n_experts_per_token = bench::kPerToken;
  options.row_bytes_max = bench::kRowBytes;
  options.result_bytes_max = bench::ResultBytes(settings.sums);
  const auto fixed = std::find_if(engine::kRowWays.begin(), engine::kRowWays.end(),
                                  [&](engine::RowWay one) { return engine::RowWayName(one) == name; });
  const bool is_fixed = fixed != engine::kRowWays.end();
  if (is_fixed) options.ways = engine::RowWays{*fixed, *fixed};
  if (is_fixed || name == "direct") options.shm_dir = settings.shm_dir;
  Way way;
  way.name = name;
  if (name == "baseline") {
    way.transport = std::make_unique<engine::BaselineExpertTransport>(session.communicator(), bench::kExperts,
                                                                      session.generation());
  } else if (name == "plain") {
    way.transport = std::make_unique<bench::PlainTransport>(session.communicator(), bench::kExperts);
  } else if (name == "messages" || is_fixed || name == "direct") {
    ASSIGN_OR_RETURN(way.transport,
                     engine::DirectExpertTransport::Create(session.communicator(), session.hosts(), options));
  } else if (name != "copy") {
    return absl::InvalidArgumentError(
        absl::StrCat("--way ", name, ": must be baseline, plain, messages, streamed, pushed, pulled, direct or copy"));
  }
  return way;
}

absl::StatusOr<std::vector<Way>> MakeWays(engine::MpiSession& session, const Settings& settings) {
  std::vector<Way> ways;
  for (const std::string& name : settings.ways) {
    const double start_us = bench::NowUs();
    ASSIGN_OR_RETURN(Way way, MakeWay(session, settings, name));
    way.start_us = bench::NowUs() - start_us;
    ways.push_back(std::move(way));
  }
  return ways;
}

double Least(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

const Way* Find(const std::vector<Way>& ways, const std::string& name) {
  const auto it = std::find_if(ways.begin(), ways.end(), [&](const Way& way) { return way.name == name; });
  return it == ways.end() ? nullptr : &*it;
}

// What the way that was chosen by measuring is of the best of those that it was chosen from.
void PrintChoice(const std::vector<Way>& ways, const Case& one) {
  const auto figures = [&](const std::string& name) -> const Figures* {
    const Way* way = Find(ways, name);
    return way == nullptr ? nullptr : &one.figures[static_cast<size_t>(way - ways.data())];
  };
  const Figures* direct = figures("direct");
  double best_dispatch = std::numeric_limits<double>::infinity();
  double best_combine = best_dispatch;
  for (const engine::RowWay row_way : engine::kRowWays) {
    const Figures* way = figures(engine::RowWayName(row_way));
    if (direct == nullptr || way == nullptr) return;
    best_dispatch = std::min(best_dispatch, Least(way->with_writing));
    best_combine = std::min(best_combine, Least(way->combine));
  }
  std::printf("%6zu direct to the best of the three, least, rows written included: %.2f %.2f\n", one.n_tokens,
              Least(direct->with_writing) / best_dispatch, Least(direct->combine) / best_combine);
}

// One line for each way: text for people, or a JSON object.
void Print(const Settings& settings, int n_shards, const std::vector<Way>& ways, const Case& one) {
  const Figures& first = one.figures[0];
  for (size_t w = 0; w < ways.size(); ++w) {
    const Figures& figures = one.figures[w];
    const double dispatch = Median(figures.dispatch);
    const double combine = Median(figures.combine);
    if (settings.json) {
      std::printf(
          "{\"shards\": %d, \"routing\": \"%s\", \"tokens\": %zu, \"way\": \"%s\", \"dispatch_us\": %.2f, "
          "\"combine_us\": %.2f, \"dispatch_quiet_us\": %.2f, \"combine_quiet_us\": %.2f}\n",
          n_shards, one.routing->name.c_str(), one.n_tokens, ways[w].name.c_str(), dispatch, combine,
          Quiet(figures.dispatch), Quiet(figures.combine));
    } else {
      std::printf("%-9s %6zu %-9s %9.1f %9.1f %9.1f %9.1f %6.2f %6.2f %6.2f %6.2f\n", one.routing->name.c_str(),
                  one.n_tokens, ways[w].name.c_str(), dispatch, Least(figures.dispatch), combine,
                  Least(figures.combine), dispatch / Median(first.dispatch),
                  Least(figures.dispatch) / Least(first.dispatch), combine / Median(first.combine),
                  Least(figures.combine) / Least(first.combine));
    }
  }
  if (!settings.json) PrintChoice(ways, one);
  std::fflush(stdout);
}

// Ways take turns, so that whatever else the machine does hits all of them.
absl::Status Measure(bench::ExchangeRounds& rounds, const std::vector<Way>& ways, int n_rounds, uint64_t& seq,
                     Case& one) {
  constexpr int kWarmUp = 3;
  one.figures.resize(ways.size());
  for (int round = 0; round < kWarmUp + n_rounds; ++round) {
    for (size_t w = 0; w < ways.size(); ++w) {
      ++seq;
      ExpertTransport* transport = ways[w].transport.get();
      ASSIGN_OR_RETURN(const bench::ExchangeTimes times,
                       transport == nullptr ? rounds.Copy(*one.routing, one.n_tokens, seq)
                                            : rounds.Exchange(*transport, *one.routing, one.n_tokens, seq));
      if (round < kWarmUp) continue;
      one.figures[w].dispatch.push_back(times.dispatch);
      one.figures[w].with_writing.push_back(times.writing + times.dispatch);
      one.figures[w].combine.push_back(times.combine);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<size_t>> TokensOf(const std::string& flag, const std::vector<std::string>& texts) {
  std::vector<size_t> out;
  for (const std::string& text : texts) {
    uint64_t n = 0;
    if (!absl::SimpleAtoi(text, &n) || n < 1 || n > kTokensMax) {
      return absl::InvalidArgumentError(absl::StrCat(flag, " ", text, ": must be from 1 to ", kTokensMax));
    }
    out.push_back(n);
  }
  return out;
}

absl::StatusOr<std::vector<Case>> MakeCases(const Settings& settings) {
  ASSIGN_OR_RETURN(const std::vector<size_t> all_tokens, TokensOf("--tokens", settings.tokens));
  ASSIGN_OR_RETURN(const std::vector<size_t> bulk, TokensOf("--bulk", settings.bulk));
  std::vector<std::string> routings = settings.routings;
  if (!bulk.empty()) routings.emplace_back(bench::kNeighbour);
  std::vector<Case> out;
  for (const std::string& name : routings) {
    ASSIGN_OR_RETURN(bench::Routing made, bench::MakeRouting(name, settings.sums));
    const auto routing = std::make_shared<bench::Routing>(std::move(made));
    for (const size_t n : routing->sampler ? all_tokens : bulk) {
      out.push_back({.routing = routing, .n_tokens = n, .figures = {}});
    }
  }
  return out;
}

absl::Status PrintPings(engine::MpiSession& session, const std::string& shm_dir) {
  ASSIGN_OR_RETURN(const double flag_s, bench::PingByFlag(session, shm_dir));
  ASSIGN_OR_RETURN(const bench::MessagePing ping, bench::PingByMessage(session));
  if (session.communicator().rank() != 0) return absl::OkStatus();
  std::printf("{\"ping_flag_us\": %.2f, \"ping_message_us\": %.2f, \"look_us\": %.2f}\n", flag_s * 1e6,
              ping.seconds * 1e6, ping.look_s * 1e6);
  return absl::OkStatus();
}

// Everything once, a few times over: what a machine gives changes within minutes.
absl::Status MeasureAll(bench::ExchangeRounds& rounds, const std::vector<Way>& ways, int n_rounds,
                        std::vector<Case>& cases) {
  uint64_t seq = 0;
  // Connections' windows grow, and shards learn how long it is worth to look, while much is sent.
  Case warm_up = {.routing = cases[0].routing, .n_tokens = kTokensToWarmUp, .figures = {}};
  RETURN_IF_ERROR(Measure(rounds, ways, kRoundsToWarmUp, seq, warm_up));
  for (int pass = 0; pass < kPasses; ++pass) {
    const int n = n_rounds * (pass + 1) / kPasses - n_rounds * pass / kPasses;
    for (Case& one : cases) RETURN_IF_ERROR(Measure(rounds, ways, n, seq, one));
  }
  return absl::OkStatus();
}

absl::Status Run(const Settings& settings) {
  ASSIGN_OR_RETURN(std::vector<Case> cases, MakeCases(settings));
  ASSIGN_OR_RETURN(const auto session, bench::JoinGroup(settings.run_dir));
  ASSIGN_OR_RETURN(const std::vector<Way> ways, MakeWays(*session, settings));
  bench::ExchangeRounds rounds(*session);
  const bool prints = session->communicator().rank() == 0;
  if (prints && !settings.json) {
    if (const Way* direct = Find(ways, "direct"); direct != nullptr) {
      const auto& chosen = static_cast<const engine::DirectExpertTransport&>(*direct->transport);
      std::printf("direct: %s, made in %.0f ms\n", chosen.Describe().c_str(), direct->start_us / 1e3);
    }
    std::printf("medians and least of dispatch and combine in us, and what they are of the first way's\n");
    std::printf("%-9s %6s %-9s %9s %9s %9s %9s %6s %6s %6s %6s\n", "routing", "tokens", "way", "dispatch", "least",
                "combine", "least", "ratio", "least", "ratio", "least");
  }
  RETURN_IF_ERROR(MeasureAll(rounds, ways, settings.n_rounds, cases));
  for (const Case& one : cases) {
    if (prints) Print(settings, session->communicator().size(), ways, one);
  }
  if (settings.pings) RETURN_IF_ERROR(PrintPings(*session, settings.shm_dir));
  if (prints) std::fprintf(stderr, "read %llu\n", static_cast<unsigned long long>(rounds.sum()));
  return session->Finish(absl::Seconds(5));
}

}  // namespace
}  // namespace longshelf

int main(int argc, char** argv) {
  longshelf::Settings settings;
  longshelf::ConfigSpec spec("expert_transport_bench", "What an exchange of expert rows costs; to be run by mpirun.");
  spec.set_unknown_env(longshelf::ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&settings.run_dir, "run-dir", "an empty directory for the group's files");
  spec.Require("run-dir");
  spec.Add(&settings.shm_dir, "shm-dir", "a directory in shared memory");
  spec.Require("shm-dir");
  spec.Add(&settings.n_rounds, "rounds", "rounds of each measurement; the median counts", {3, 100'000});
  spec.Add(&settings.tokens, "tokens", "tokens of each shard; repeatable");
  spec.Add(&settings.routings, "routing", "uniform, zipf[:EXPONENT], hot[:EXPERTS:SHARE]; repeatable");
  spec.Add(&settings.bulk, "bulk", "measured too: so many tokens of each shard for one expert of the next; repeatable");
  spec.Add(
      &settings.ways, "way",
      "baseline, plain (the same by hand), messages, streamed, pushed, pulled, direct (the best of these three) or "
      "copy; repeatable. Ratios are to the first");
  spec.Add(&settings.sums, "sums", "an FP32 sum of each shard comes back, not a BF16 result of each expert; not exact");
  spec.Add(&settings.pings, "pings", "two shards: also how long until one hears from the other, as a JSON object");
  spec.Add(&settings.json, "json", "a JSON object in each line");
  if (const longshelf::ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::Status status = longshelf::Run(settings);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
