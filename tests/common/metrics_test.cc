#include "common/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace longshelf {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, ShowsACounterAtZeroBeforeItsFirstEvent) {
  Metrics metrics("demo");
  metrics.AddCounter("longshelf_demo_requests_total", "Requests.", {{"code", "200"}});
  EXPECT_THAT(metrics.Serialize(), HasSubstr("longshelf_demo_requests_total{code=\"200\"} 0\n"));
}

TEST(Metrics, KeepsOneFamilyForManyLabelValues) {
  Metrics metrics("demo");
  metrics.AddCounter("longshelf_demo_requests_total", "Requests.", {{"code", "200"}}).Increment();
  metrics.AddCounter("longshelf_demo_requests_total", "Requests.", {{"code", "500"}}).Increment(2);
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("longshelf_demo_requests_total{code=\"500\"} 2\n"));
  EXPECT_EQ(text.find("# TYPE longshelf_demo_requests_total"), text.rfind("# TYPE longshelf_demo_requests_total"));
}

TEST(Metrics, SaysWhatRunsAndHowMuchItUses) {
  const std::string text = Metrics("demo").Serialize();
  EXPECT_THAT(text, HasSubstr("longshelf_build_info{"));
  EXPECT_THAT(text, HasSubstr("program=\"demo\""));
  for (const char* name : {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
                           "process_start_time_seconds"}) {
    EXPECT_THAT(text, HasSubstr(std::string("\n") + name + " ")) << text;
  }
}

TEST(Metrics, CountsIntoHistogramBuckets) {
  Metrics metrics("demo");
  auto& histogram = metrics.AddHistogram("longshelf_demo_wait_seconds", "Waits.", {0.1, 1});
  histogram.Observe(0.05);
  histogram.Observe(0.5);
  EXPECT_THAT(metrics.Serialize(), HasSubstr("longshelf_demo_wait_seconds_bucket{le=\"1\"} 2\n"));
}

TEST(MetricsDeathTest, RefusesNamesThatPromtoolWouldRefuse) {
  Metrics metrics("demo");
  EXPECT_DEATH(metrics.AddCounter("longshelf_requests", ""), "CHECK failed");
  EXPECT_DEATH(metrics.AddCounter("requests_total", ""), "CHECK failed");
  EXPECT_DEATH(metrics.AddGauge("longshelf_wait_ms", ""), "CHECK failed");
  EXPECT_DEATH(metrics.AddGauge("longshelf:queue", ""), "CHECK failed");
  EXPECT_DEATH(metrics.AddGauge("longshelf_queue_total", ""), "CHECK failed");
  EXPECT_DEATH(metrics.AddHistogram("longshelf_wait_seconds", "", {1, 0.5}), "CHECK failed");
}

}  // namespace
}  // namespace longshelf
