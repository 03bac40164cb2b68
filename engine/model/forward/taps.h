#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "engine/model/model.h"

namespace longshelf::engine {

// Names inner results "layers.{l}.<name>" for a TapSink that may be absent, and then costs nothing.
class Tapper {
 public:
  Tapper(TapSink* sink, int64_t layer) : sink_(sink), layer_(layer) {}
  void Tap(std::string_view name, std::span<const float> values, int64_t cols) const {
    if (sink_ != nullptr) sink_->Tap(absl::StrCat("layers.", layer_, ".", std::string(name)), values, cols);
  }
  bool active() const { return sink_ != nullptr; }

 private:
  TapSink* sink_;
  int64_t layer_;
};

}  // namespace longshelf::engine
