#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace longshelf::kvstore {

// One HTTP/2 connection whose calls begin their request and never end it: written by hand, as no gRPC client sends part
// of a message. Answers pings, as the server would close the connection otherwise.
class HalfOpenRequests {
 public:
  explicit HalfOpenRequests(uint16_t port) : socket_(io_) {
    socket_.connect({boost::asio::ip::address_v4::loopback(), port});
    Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    Send(Frame(kSettings, 0, 0, ""));
    TakeFrames(kPatienceMs);
  }

  // Sends the head of a call and, as far as the server lets it, n_bytes of a message of n_claimed.
  void Begin(std::string_view path, uint32_t n_claimed, size_t n_bytes) {
    const uint32_t stream = next_stream_;
    next_stream_ += 2;
    windows_[stream] = initial_window_;
    Send(Frame(kHeaders, kEndHeaders, stream, Head(path)));
    std::string prefix(1, '\0');
    prefix += BigEndian(n_claimed, 4);
    for (size_t n_sent = 0; n_sent < n_bytes && windows_.contains(stream);) {
      const int64_t window = std::min({windows_[stream], windows_[0], int64_t{kFrameBytes}});
      if (window <= 0) {
        if (!TakeFrames(kPatienceMs)) return;
        continue;
      }
      const size_t n = std::min(n_bytes - n_sent, static_cast<size_t>(window));
      Send(Frame(kData, 0, stream, n_sent == 0 ? prefix + std::string(n - prefix.size(), 'x') : std::string(n, 'x')));
      windows_[stream] -= static_cast<int64_t>(n);
      windows_[0] -= static_cast<int64_t>(n);
      n_sent += n;
      TakeFrames(0);
    }
  }

  // Keeps what is open, until the server closes the connection.
  void Hold() {
    while (is_open_) TakeFrames(-1);
  }

  int n_reset() const { return n_reset_; }

 private:
  enum : uint8_t { kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPing = 6, kWindowUpdate = 8 };
  static constexpr uint8_t kAck = 1;
  static constexpr uint8_t kEndHeaders = 4;
  static constexpr size_t kFrameBytes = 16384;  // that a server takes from anybody
  static constexpr size_t kFrameHeadBytes = 9;
  static constexpr int kPatienceMs = 100;

  static std::string BigEndian(uint32_t value, int n_bytes) {
    std::string bytes;
    for (int shift = 8 * (n_bytes - 1); shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
    return bytes;
  }
  static uint32_t ReadBigEndian(std::string_view bytes) {
    uint32_t value = 0;
    for (const char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
    return value;
  }
  static std::string Frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
    std::string frame = BigEndian(static_cast<uint32_t>(payload.size()), 3);
    frame += {static_cast<char>(type), static_cast<char>(flags)};
    return frame.append(BigEndian(stream, 4)).append(payload);
  }
  // HPACK literals, neither indexed nor Huffman coded.
  static std::string Head(std::string_view path) {
    std::string head;
    const std::array<std::string_view, 2> fields[] = {{":method", "POST"}, {":scheme", "http"},
                                                      {":path", path},     {":authority", "x"},
                                                      {"te", "trailers"},  {"content-type", "application/grpc"}};
    for (const auto& [name, value] : fields) {
      head += '\0';
      head += static_cast<char>(name.size());
      head.append(name) += static_cast<char>(value.size());
      head.append(value);
    }
    return head;
  }

  void Send(std::string_view bytes) {
    boost::system::error_code error;
    boost::asio::write(socket_, boost::asio::buffer(bytes), error);
    if (error) is_open_ = false;
  }

  // False when nothing came for so long (-1: without end), or ever will.
  bool TakeFrames(int timeout_ms) {
    pollfd ready = {socket_.native_handle(), POLLIN, 0};
    if (!is_open_ || poll(&ready, 1, timeout_ms) <= 0) return false;
    char bytes[65536];
    const ssize_t n = recv(socket_.native_handle(), bytes, sizeof bytes, 0);
    if (n <= 0) return is_open_ = false;
    received_.append(bytes, static_cast<size_t>(n));
    while (received_.size() >= kFrameHeadBytes) {
      const std::string_view all = received_;
      const size_t n_payload = ReadBigEndian(all.substr(0, 3));
      if (all.size() < kFrameHeadBytes + n_payload) break;
      Take(static_cast<uint8_t>(all[3]), static_cast<uint8_t>(all[4]), ReadBigEndian(all.substr(5, 4)),
           all.substr(kFrameHeadBytes, n_payload));
      received_.erase(0, kFrameHeadBytes + n_payload);
    }
    return true;
  }

  void Take(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
    if (type == kPing && (flags & kAck) == 0) Send(Frame(kPing, kAck, 0, payload));
    if (type == kWindowUpdate && windows_.contains(stream)) windows_[stream] += ReadBigEndian(payload);
    if (type == kReset && windows_.erase(stream) > 0) ++n_reset_;
    if (type != kSettings || (flags & kAck) != 0) return;
    constexpr size_t kSettingBytes = 6;
    constexpr uint32_t kInitialWindow = 4;
    for (; payload.size() >= kSettingBytes; payload.remove_prefix(kSettingBytes)) {
      if (ReadBigEndian(payload.substr(0, 2)) != kInitialWindow) continue;
      const int64_t window = ReadBigEndian(payload.substr(2, 4));
      for (auto& [open, left] : windows_) left += open == 0 ? 0 : window - initial_window_;
      initial_window_ = window;
    }
    Send(Frame(kSettings, kAck, 0, ""));
  }

  boost::asio::io_context io_;
  boost::asio::ip::tcp::socket socket_;
  bool is_open_ = true;
  std::string received_;
  uint32_t next_stream_ = 1;
  int64_t initial_window_ = 65535;
  std::map<uint32_t, int64_t> windows_ = {{0, 65535}};  // by stream; 0: of the connection
  int n_reset_ = 0;
};

}  // namespace longshelf::kvstore
