#pragma once

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
  // Something the file has and nothing was compared with.
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
// "97.3 %"
std::string Percent(double share);
// The value below which `share` of the values lie (nearest rank); 0 when empty.
double Quantile(std::vector<double> values, double share);
double Mean(const std::vector<double>& values);

}  // namespace longshelf::engine
