#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace longshelf::engine {

// One line per check: "PASS name  figures".
class Report {
 public:
  explicit Report(std::ostream& out) : out_(out) {}
  void Check(std::string_view name, bool passed, std::string_view figures);
  void Note(std::string_view name, std::string_view figures);
  // A tensor that no check compared with anything: nothing is claimed of it.
  void NotJudged(std::string_view name, std::string_view why);
  bool all_passed() const { return n_failed_ == 0; }
  void Summary() const;

 private:
  std::ostream& out_;
  int n_checks_ = 0;
  int n_failed_ = 0;
  int n_not_judged_ = 0;
};

// "1.23e-04"
std::string Figure(double value);
// "97.30 % of 268"
std::string ShareOf(int64_t count, int64_t n);
// All 0 when empty. The value below which `share` of the values lie (nearest rank).
double Quantile(std::vector<double> values, double share);
// Of an even number of values the mean of the two in the middle.
double Median(std::vector<double> values);
double Mean(const std::vector<double>& values);

}  // namespace longshelf::engine
