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

}  // namespace
}  // namespace longshelf
