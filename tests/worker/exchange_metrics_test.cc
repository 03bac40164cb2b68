#include "exchange_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshelf::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ExchangeMetrics, WhatAGroupMeasuredAndChoseIsThereByPhaseAndWay) {
  Metrics metrics("test");
  engine::WayFigures figures;
  figures.n_tokens = 8;
  figures.dispatch_seconds = {3e-6, 2e-6, 1e-6};
  figures.combine_seconds = {1e-6, 2e-6, 4e-6};
  ExportGroupStart(metrics, {.barrier_seconds = 0.25, .yields = true}, engine::WayTable(std::vector{figures}),
                   {figures});
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_barrier_seconds 0.25"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_yield 1"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_way{phase=\"dispatch\",tokens=\"8\",way=\"pulled\"} 1"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_way{phase=\"combine\",tokens=\"8\",way=\"pulled\"} 0"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_way{phase=\"combine\",tokens=\"8\",way=\"streamed\"} 1"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_measured_seconds{phase=\"combine\",tokens=\"8\",way=\"pulled\"} "
                              "4e-06"));
}

TEST(ExchangeMetrics, WithoutNeighboursThereIsNoWay) {
  Metrics metrics("test");
  ExportGroupStart(metrics, {}, std::nullopt, {});
  EXPECT_THAT(metrics.Serialize(), Not(HasSubstr("longshelf_worker_expert_way")));
}

TEST(PlacementMetrics, CountsWhatHappenedSinceTheLastReportAndShowsTheLastLook) {
  Metrics metrics("test");
  PlacementMetrics placement(metrics);
  engine::PlacementReport report;
  report.epoch = 2;
  report.n_moved = 7;
  report.rank_rows = {10, 30};
  report.balance[0] = {0.5};
  report.balance[1] = {1.0};
  placement.Update(report);
  report.n_moved = 9;
  report.n_refused = 1;
  placement.Update(report);
  const std::string text = metrics.Serialize();
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_placement_epoch 2"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_experts_moved_total 9"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_moves_refused_total 1"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_rows{shard=\"1\"} 30"));
  EXPECT_THAT(text, HasSubstr("longshelf_worker_expert_balance_ratio{layer=\"0\",phase=\"decode\"} 0.5"));
}

}  // namespace
}  // namespace longshelf::worker
