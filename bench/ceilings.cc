#include "ceilings.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <latch>
#include <memory>
#include <ostream>
#include <span>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "ceilings_kernels.h"
#include "figures.h"

namespace longshelf::bench {
namespace {

using Seconds = std::chrono::duration<double>;

// For each thread; beyond the last-level cache of a whole machine once a few threads have theirs, and of a small one
// at once.
constexpr size_t kReadBytes = 256UL << 20;
constexpr size_t kAlignment = 64;

double ThreadCpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Rates {
  double per_s = 0;      // sum over threads of each one's rate
  double per_cpu_s = 0;  // the same by processor time, which other work on the machine does not stretch
};

class Buffer {
 public:
  Buffer() : bytes_(std::make_unique<unsigned char[]>(kReadBytes + kAlignment)) {
    std::memset(bytes_.get(), 1, kReadBytes + kAlignment);
  }
  std::span<const unsigned char> data() const {
    const size_t past = reinterpret_cast<uintptr_t>(bytes_.get()) % kAlignment;
    return {bytes_.get() + (kAlignment - past) % kAlignment, kReadBytes};
  }

 private:
  std::unique_ptr<unsigned char[]> bytes_;
};

Rates MeasureThread(const CeilingKernel& kernel, std::span<const unsigned char> data, double seconds) {
  const auto begin = std::chrono::steady_clock::now();
  const double cpu_begin = ThreadCpuSeconds();
  double work = 0;
  double elapsed = 0;
  while (elapsed < seconds) {
    work += kernel.work(data);
    elapsed = Seconds(std::chrono::steady_clock::now() - begin).count();
  }
  return {work / elapsed, work / (ThreadCpuSeconds() - cpu_begin)};
}

Rates Measure(const CeilingKernel& kernel, std::span<const Buffer> buffers, double seconds) {
  std::latch start(static_cast<std::ptrdiff_t>(buffers.size()));
  std::vector<Rates> rates(buffers.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < buffers.size(); ++i) {
    threads.emplace_back([&, i] {
      start.arrive_and_wait();
      rates[i] = MeasureThread(kernel, buffers[i].data(), seconds);
    });
  }
  Rates sum;
  for (size_t i = 0; i < buffers.size(); ++i) {
    threads[i].join();
    sum.per_s += rates[i].per_s;
    sum.per_cpu_s += rates[i].per_cpu_s;
  }
  return sum;
}

}  // namespace

absl::Status RunCeilings(const CeilingsSettings& settings, std::ostream& csv) {
  const std::vector<CeilingKernel> kernels = AvailableCeilings();
  if (kernels.empty()) return absl::FailedPreconditionError("this machine has no AVX2 and FMA");
  const int n_cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int max_threads = settings.max_threads > 0 ? settings.max_threads : n_cores;
  const std::vector<Buffer> buffers(static_cast<size_t>(max_threads));
  csv << "quantity,kernel,threads,unit,median,min,max,median_by_cpu_time\n";
  for (int n = 1; n <= max_threads; n = n < max_threads ? std::min(2 * n, max_threads) : n + 1) {
    for (const CeilingKernel& kernel : kernels) {
      std::vector<double> per_s;
      std::vector<double> per_cpu_s;
      for (int round = 0; round < settings.n_rounds; ++round) {
        const Rates rates = Measure(kernel, std::span(buffers).first(static_cast<size_t>(n)), settings.seconds);
        per_s.push_back(rates.per_s / 1e9);
        per_cpu_s.push_back(rates.per_cpu_s / 1e9);
      }
      std::sort(per_s.begin(), per_s.end());
      const double median = Median(per_s);
      csv << absl::StrFormat("%s,%s,%d,%s,%.2f,%.2f,%.2f,%.2f\n", kernel.quantity, kernel.name, n, kernel.unit, median,
                             per_s.front(), per_s.back(), Median(per_cpu_s))
          << std::flush;
    }
  }
  return absl::OkStatus();
}

}  // namespace longshelf::bench
