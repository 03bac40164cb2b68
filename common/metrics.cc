#include "common/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/strings/match.h"
#include "common/build_info.h"
#include "common/check.h"

namespace longshelf {
namespace {

void CheckName(const std::string& name) {
  LONGSHELF_CHECK(absl::StartsWith(name, "longshelf_"));
  LONGSHELF_CHECK(std::all_of(name.begin(), name.end(),
                              [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; }));
  for (const char* suffix : {"_ms", "_milliseconds", "_us", "_mb", "_kb", "_percent", "_count", "_sum", "_bucket"}) {
    LONGSHELF_CHECK(!absl::EndsWith(name, suffix));
  }
}

prometheus::MetricFamily Family(const std::string& name, const std::string& help, prometheus::MetricType type,
                                double value) {
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return {name, help, type, {metric}};
}

// Read when asked, so there is nothing to keep up to date.
std::vector<prometheus::MetricFamily> ProcessFamilies() {
  std::vector<prometheus::MetricFamily> out;
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  out.push_back(Family("process_cpu_seconds_total", "User and system CPU time.", prometheus::MetricType::Counter,
                       seconds(usage.ru_utime) + seconds(usage.ru_stime)));
  double pages_virtual = 0;
  double pages_resident = 0;
  if (std::ifstream statm("/proc/self/statm"); statm >> pages_virtual >> pages_resident) {
    const auto page_bytes = static_cast<double>(sysconf(_SC_PAGESIZE));
    out.push_back(Family("process_virtual_memory_bytes", "Address space in use.", prometheus::MetricType::Gauge,
                         pages_virtual * page_bytes));
    out.push_back(Family("process_resident_memory_bytes", "Memory in use.", prometheus::MetricType::Gauge,
                         pages_resident * page_bytes));
  }
  std::error_code error;
  if (std::filesystem::directory_iterator entries("/proc/self/fd", error); !error) {
    out.push_back(Family("process_open_fds", "Open file descriptors.", prometheus::MetricType::Gauge,
                         static_cast<double>(std::distance(entries, {}))));
  }
  return out;
}

}  // namespace

Metrics::Metrics(const std::string& program) : registry_(prometheus::Registry::InsertBehavior::Merge) {
  const BuildInfo build = GetBuildInfo();
  AddGauge("longshelf_build_info", "Always 1; the labels say what runs.",
           {{"program", program}, {"version", build.version}, {"build", build.preset}})
      .Set(1);
  prometheus::BuildGauge()
      .Name("process_start_time_seconds")
      .Help("When the process started, seconds since 1970.")
      .Register(registry_)
      .Add({})
      .Set(std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
}

prometheus::Counter& Metrics::AddCounter(const std::string& name, const std::string& help, const Labels& labels) {
  CheckName(name);
  LONGSHELF_CHECK(absl::EndsWith(name, "_total"));
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_).Add(labels);
}

prometheus::Gauge& Metrics::AddGauge(const std::string& name, const std::string& help, const Labels& labels) {
  CheckName(name);
  LONGSHELF_CHECK(!absl::EndsWith(name, "_total"));
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels);
}

prometheus::Histogram& Metrics::AddHistogram(const std::string& name, const std::string& help,
                                             const std::vector<double>& bounds, const Labels& labels) {
  CheckName(name);
  LONGSHELF_CHECK(!absl::EndsWith(name, "_total"));
  LONGSHELF_CHECK(std::is_sorted(bounds.begin(), bounds.end()));
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add(labels, bounds);
}

std::string Metrics::Serialize() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  std::vector<prometheus::MetricFamily> process = ProcessFamilies();
  families.insert(families.end(), std::make_move_iterator(process.begin()), std::make_move_iterator(process.end()));
  return prometheus::TextSerializer().Serialize(families);
}

std::vector<double> Metrics::SecondsBounds() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};
}

}  // namespace longshelf
