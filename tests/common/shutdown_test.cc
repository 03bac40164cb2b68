#include "common/shutdown.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <thread>

namespace longshelf {
namespace {

using Event = ShutdownSignals::Event;

TEST(ShutdownSignals, TurnsSignalsIntoEvents) {
  ShutdownSignals signals;
  for (const int number : {SIGTERM, SIGINT}) {
    raise(number);
    EXPECT_EQ(signals.Wait(), Event::kSignal);
    EXPECT_EQ(signals.last_signal(), number);
  }
  EXPECT_EQ(signals.Wait(absl::ZeroDuration()), Event::kTimeout);
}

TEST(ShutdownSignals, CanBeWokenFromAnotherThread) {
  ShutdownSignals signals;
  std::thread waker([&] { signals.Wake(); });
  EXPECT_EQ(signals.Wait(), Event::kWake);
  waker.join();
}

TEST(ShutdownSignals, MakesItsDescriptorReadableWhileSomethingIsPending) {
  ShutdownSignals signals;
  pollfd poller = {signals.fd(), POLLIN, 0};
  EXPECT_EQ(poll(&poller, 1, 0), 0);
  raise(SIGTERM);
  EXPECT_EQ(poll(&poller, 1, 0), 1);
  EXPECT_EQ(signals.Wait(), Event::kSignal);
  EXPECT_EQ(poll(&poller, 1, 0), 0);
}

TEST(RunUntilStopped, DrainsAfterTheFirstSignalAndStopsAtTheSecond) {
  ShutdownSignals signals;
  raise(SIGTERM);
  bool drained = false;
  const Event event = RunUntilStopped(
      signals,
      [&] {
        drained = true;
        raise(SIGTERM);
      },
      absl::Hours(1));
  EXPECT_TRUE(drained);
  EXPECT_EQ(event, Event::kSignal);
}

TEST(RunUntilStopped, StopsWhenDrainedOrOutOfTime) {
  ShutdownSignals signals;
  raise(SIGINT);
  EXPECT_EQ(RunUntilStopped(
                signals, [&] { signals.Wake(); }, absl::Hours(1)),
            Event::kWake);
  raise(SIGINT);
  EXPECT_EQ(RunUntilStopped(
                signals, [] {}, absl::ZeroDuration()),
            Event::kTimeout);
}

}  // namespace
}  // namespace longshelf
