// A fixed amount of scalar work that no vector unit and no cache makes faster: the unit in which ratchet.py counts.
// Prints the processor seconds it took.
#include <time.h>

#include <cstdint>
#include <cstdio>

namespace {

// Every step needs the one before it.
double Work() {
  uint64_t state = 1;
  double sum = 0;
  for (int64_t i = 0; i < 300'000'000; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    sum = sum * 0.5 + static_cast<double>(state >> 40);
  }
  return sum;
}

}  // namespace

int main() {
  timespec begin{};
  timespec end{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
  const double result = Work();
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
  std::printf("%.6f\n",
              static_cast<double>(end.tv_sec - begin.tv_sec) + 1e-9 * static_cast<double>(end.tv_nsec - begin.tv_nsec));
  return result > 0 ? 0 : 1;  // the result is used, so the work is done
}
