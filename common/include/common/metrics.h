#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <string>
#include <vector>

namespace longshelf {

// The metrics of one process. Objects returned live as long as this does and may be updated from any thread.
// Names follow the conventions promtool checks: prefix longshelf_, base units (_seconds, _bytes, _ratio), counters end
// with _total, no colons; breaking them is a bug (CHECK). A counter exists at 0 from the moment it is added. Labels
// come from small closed sets: never a request id, never user text.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;

  // Adds longshelf_build_info and the process_* metrics (CPU, memory, descriptors, start time).
  explicit Metrics(const std::string& program);

  prometheus::Counter& AddCounter(const std::string& name, const std::string& help, const Labels& labels = {});
  prometheus::Gauge& AddGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  // `bounds`: ascending upper limits of the buckets, in the unit of the name.
  prometheus::Histogram& AddHistogram(const std::string& name, const std::string& help,
                                      const std::vector<double>& bounds, const Labels& labels = {});

  // In the Prometheus text format.
  std::string Serialize() const;

  // Upper limits for request and wait times: 1 ms to 5 min.
  static std::vector<double> SecondsBounds();

 private:
  prometheus::Registry registry_;
};

}  // namespace longshelf
