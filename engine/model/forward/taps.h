#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "engine/model/model.h"

namespace longshelf::engine {

// Names inner results "layers.{l}.<name>" for a TapSink that may be absent.
class Tapper {
 public:
  Tapper(TapSink* sink, std::string prefix) : sink_(sink), prefix_(std::move(prefix)) {}
  void Tap(std::string_view name, std::span<const float> values, int64_t cols) const {
    if (sink_ != nullptr) sink_->Tap(prefix_ + std::string(name), values, cols);
  }
  bool active() const { return sink_ != nullptr; }

 private:
  TapSink* sink_;
  std::string prefix_;
};

}  // namespace longshelf::engine
