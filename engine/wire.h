#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace longshelf::engine {

static_assert(std::endian::native == std::endian::little, "plans and results travel in little-endian form");

// Appends fixed-width values. Every function that WireReader has too takes the same arguments here, so that one
// template over either describes a form for both; what only reading needs is ignored.
class WireWriter {
 public:
  template <typename T>
  void Value(T value, absl::string_view /*field*/ = {}) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out_.append(bytes, sizeof value);
  }
  void Flag(bool value, absl::string_view /*field*/) { Value<uint8_t>(value ? 1 : 0); }
  template <typename T>
  void Array(const std::vector<T>& values, absl::string_view /*field*/) {
    Count(values.size());
    if (values.empty()) return;
    const size_t at = out_.size();
    out_.resize(at + values.size() * sizeof(T));
    std::memcpy(out_.data() + at, values.data(), values.size() * sizeof(T));
  }
  template <typename T, size_t n>
  void Fixed(const std::array<T, n>& values, absl::string_view /*field*/) {
    out_.append(reinterpret_cast<const char*>(values.data()), sizeof values);
  }
  void Text(std::string_view text, absl::string_view /*field*/) {
    Count(text.size());
    out_.append(text);
  }
  template <typename T, typename Each>
  void List(const std::vector<T>& items, absl::string_view /*field*/, Each each) {
    Count(items.size());
    for (const T& item : items) each(*this, item);
  }
  std::string& out() { return out_; }

 private:
  void Count(size_t n) { Value<uint64_t>(n); }

  std::string out_;
};

// Reads what WireWriter wrote. The first thing that does not fit names itself in status(); every later read is a
// no-op that gives zeroes, so callers check once at the end.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  void Value(T& value, absl::string_view field) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    value = T{};
    if (!Need(sizeof value, field)) return;
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_.remove_prefix(sizeof value);
  }
  void Flag(bool& value, absl::string_view field) {
    uint8_t byte = 0;
    Value(byte, field);
    if (byte > 1) Fail(field, "is neither 0 nor 1");
    value = byte == 1;
  }
  template <typename T>
  void Array(std::vector<T>& values, absl::string_view field) {
    const size_t n = Count(sizeof(T), field);
    values.resize(n);
    if (n == 0) return;
    std::memcpy(values.data(), bytes_.data(), n * sizeof(T));
    bytes_.remove_prefix(n * sizeof(T));
  }
  template <typename T, size_t n>
  void Fixed(std::array<T, n>& values, absl::string_view field) {
    values = {};
    if (!Need(sizeof values, field)) return;
    std::memcpy(values.data(), bytes_.data(), sizeof values);
    bytes_.remove_prefix(sizeof values);
  }
  void Text(std::string& text, absl::string_view field) {
    const size_t n = Count(1, field);
    text.assign(bytes_.substr(0, n));
    bytes_.remove_prefix(n);
  }
  // `each` reads one item. What bounds their number is measured: the form of an item whose own lists are empty.
  template <typename T, typename Each>
  void List(std::vector<T>& items, absl::string_view field, Each each) {
    WireWriter least;
    const T empty{};
    each(least, empty);
    items.resize(Count(least.out().size(), field));
    for (T& item : items) each(*this, item);
  }
  void Fail(absl::string_view field, absl::string_view why) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(field, " ", why));
    bytes_ = {};
  }
  bool ok() const { return status_.ok(); }
  // OK only when everything was read.
  absl::Status Finish() {
    if (status_.ok() && !bytes_.empty()) Fail("trailing bytes", "follow the last field");
    return status_;
  }

 private:
  // A count of elements that take at least `min_bytes_each`.
  size_t Count(size_t min_bytes_each, absl::string_view field) {
    uint64_t n = 0;
    Value(n, field);
    if (n > bytes_.size() / min_bytes_each) {
      Fail(field, "counts more than the bytes that are left");
      return 0;
    }
    return n;
  }
  bool Need(size_t n, absl::string_view field) {
    if (bytes_.size() >= n) return true;
    Fail(field, "is cut off");
    return false;
  }

  std::string_view bytes_;
  absl::Status status_;
};

}  // namespace longshelf::engine
