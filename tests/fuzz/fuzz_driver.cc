// The driver of the targets where there is no libFuzzer: mutations of a target's seeds, the same ones every time. They
// run in a child process, so that whatever ends it, the parent can say what it was given.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "fuzz_target.h"
#include "mutator.h"

namespace longshelf::fuzz {
namespace {

constexpr int kExitUsage = 64;
constexpr unsigned kHangSeconds = 60;
constexpr uint64_t kRoundsPerAlarm = 1024;

std::optional<uint64_t> NumberOf(const char* text) {
  uint64_t value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

void RunOne(std::string_view input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

// Inputs by number: the seeds as they are, then the rounds.
struct Inputs {
  Seeds seeds;
  Mutator mutator{seeds};
  uint64_t seed = 0;
  uint64_t n_rounds = 0;

  uint64_t size() const { return seeds.inputs.size() + n_rounds; }
  std::string Get(uint64_t number) const {
    const uint64_t n_seeds = seeds.inputs.size();
    return number < n_seeds ? seeds.inputs[number] : mutator.Make(seed, number - n_seeds);
  }
};

// Tells in `at` which input is run.
[[noreturn]] void RunAll(const Inputs& inputs, volatile uint64_t& at) {
  for (uint64_t number = 0; number < inputs.size(); ++number) {
    if (number % kRoundsPerAlarm == 0) alarm(kHangSeconds);
    at = number;
    RunOne(inputs.Get(number));
  }
  at = inputs.size();
  std::exit(0);  // where leaks are looked for
}

int Report(const Inputs& inputs, int status, uint64_t at) {
  const std::string how =
      WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status)) : absl::StrCat("exit code ", WEXITSTATUS(status));
  if (at >= inputs.size()) {
    std::fprintf(stderr, "fuzz: %s after the last input, seed %llu\n", how.c_str(),
                 static_cast<unsigned long long>(inputs.seed));
    return 1;
  }
  std::fprintf(stderr, "fuzz: %s at input %llu of seed %llu; run it again with --hex\n%s\n", how.c_str(),
               static_cast<unsigned long long>(at), static_cast<unsigned long long>(inputs.seed),
               absl::BytesToHexString(inputs.Get(at)).c_str());
  return 1;
}

int RunInChild(const Inputs& inputs) {
  void* const shared = mmap(nullptr, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return kExitUsage;
  volatile uint64_t& at = *static_cast<uint64_t*>(shared);
  const pid_t child = fork();
  if (child == 0) RunAll(inputs, at);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return kExitUsage;
  if (status != 0) return Report(inputs, status, at);
  std::printf("fuzz: %llu inputs, seed %llu\n", static_cast<unsigned long long>(inputs.size()),
              static_cast<unsigned long long>(inputs.seed));
  return 0;
}

}  // namespace
}  // namespace longshelf::fuzz

// PROGRAM ROUNDS: what ctest runs; LONGSHELF_FUZZ_ROUNDS and LONGSHELF_FUZZ_SEED come first.
// PROGRAM --hex INPUT: one input, in this process.
int main(int argc, char** argv) {
  using namespace longshelf::fuzz;  // main has no namespace of its own
  if (argc == 3 && std::string_view(argv[1]) == "--hex") {
    RunOne(absl::HexStringToBytes(argv[2]));
    return 0;
  }
  const std::optional<uint64_t> rounds = NumberOf(argc == 2 ? argv[1] : nullptr);
  if (!rounds.has_value()) {
    std::fprintf(stderr, "usage: %s ROUNDS | --hex INPUT\n", argv[0]);
    return kExitUsage;
  }
  Inputs inputs{.seeds = MakeSeeds()};
  inputs.seed = NumberOf(std::getenv("LONGSHELF_FUZZ_SEED")).value_or(1);
  inputs.n_rounds = NumberOf(std::getenv("LONGSHELF_FUZZ_ROUNDS")).value_or(*rounds);
  return RunInChild(inputs);
}
