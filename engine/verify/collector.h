#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/model.h"

namespace longshelf::engine {

// Collects what the model taps, the rows of several calls one after another.
class Collector final : public TapSink {
 public:
  struct Taken {
    std::vector<float> values;
    int64_t cols = 0;
  };
  void Tap(std::string_view name, std::span<const float> values, int64_t cols) override {
    Taken& taken = taken_[std::string(name)];
    taken.cols = cols;
    taken.values.insert(taken.values.end(), values.begin(), values.end());
  }
  const std::map<std::string, Taken>& taken() const { return taken_; }
  // Empty when nothing of that name was tapped.
  std::vector<float> Values(std::string_view name) const {
    const auto it = taken_.find(std::string(name));
    return it == taken_.end() ? std::vector<float>() : it->second.values;
  }

 private:
  std::map<std::string, Taken> taken_;
};

}  // namespace longshelf::engine
