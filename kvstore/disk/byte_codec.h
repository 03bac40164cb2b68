#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace longshelf::kvstore::disk {

static_assert(std::endian::native == std::endian::little, "the disk format is little-endian");

// Appends fields to a string.
class ByteWriter {
 public:
  explicit ByteWriter(std::string* out) : out_(out) {}
  template <std::integral T>
  void Number(T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out_->append(bytes, sizeof value);
  }
  template <typename Array>
  void Bytes(const Array& bytes) {
    out_->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::string* const out_;
};

// Takes fields from bytes. Past the end everything is zero and ok() false, for good.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <std::integral T>
  T Number() {
    T value = 0;
    Copy(&value, sizeof value);
    return value;
  }
  template <typename Array>
  void Bytes(Array& out) {
    Copy(out.data(), out.size());
  }
  std::string Text(size_t n) {
    if (n > bytes_.size()) {
      ok_ = false;
      return {};
    }
    std::string text(n, '\0');
    Copy(text.data(), n);
    return text;
  }
  void Fail() { ok_ = false; }
  bool ok() const { return ok_; }
  size_t left() const { return bytes_.size(); }

 private:
  void Copy(void* out, size_t n) {
    if (!ok_ || n > bytes_.size()) {
      ok_ = false;
      return;
    }
    std::memcpy(out, bytes_.data(), n);
    bytes_ = bytes_.subspan(n);
  }

  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

}  // namespace longshelf::kvstore::disk
