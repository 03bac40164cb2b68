#pragma once

#include <array>
#include <boost/asio.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <thread>

namespace longshelf::kvstore {

// Forwards TCP connections to a port of this machine and lets a test spoil what goes through.
class TcpRelay {
 public:
  enum class After { kGoOn, kFallSilent, kClose };
  struct Verdict {
    size_t n_passed = 0;  // so many of the bytes at hand are passed on
    After after = After::kGoOn;
  };
  // Sees the bytes of one direction, with the count of those before them (over all connections), and may change them.
  // Runs on the relay's thread.
  using Hook = std::function<Verdict(size_t offset, std::span<char> bytes)>;
  struct Hooks {
    Hook from_upstream = PassOn;
    Hook from_client = PassOn;
  };
  static Verdict PassOn(size_t, std::span<char> bytes) { return {.n_passed = bytes.size()}; }

  TcpRelay(uint16_t upstream_port, Hooks hooks)
      : upstream_port_(upstream_port),
        down_{std::move(hooks.from_upstream), 0},
        up_{std::move(hooks.from_client), 0},
        acceptor_(io_, {Loopback(), 0}) {
    Accept();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~TcpRelay() {
    io_.stop();
    thread_.join();
  }
  TcpRelay(const TcpRelay&) = delete;
  TcpRelay& operator=(const TcpRelay&) = delete;

  uint16_t port() const { return acceptor_.local_endpoint().port(); }

 private:
  using Socket = boost::asio::ip::tcp::socket;
  struct Direction {
    Hook hook;
    size_t n_seen = 0;
  };
  struct Pipe {
    explicit Pipe(boost::asio::io_context& io) : client(io), upstream(io) {}
    Socket client;
    Socket upstream;
    std::array<char, 65536> up_buffer;
    std::array<char, 65536> down_buffer;
  };
  // One way through a pipe.
  struct Way {
    std::shared_ptr<Pipe> pipe;
    Socket& from;
    Socket& to;
    std::array<char, 65536>& buffer;
    Direction& direction;
  };

  static boost::asio::ip::address Loopback() { return boost::asio::ip::address_v4::loopback(); }

  void Accept() {
    auto pipe = std::make_shared<Pipe>(io_);
    acceptor_.async_accept(pipe->client, [this, pipe](boost::system::error_code error) {
      if (error) return;
      pipe->upstream.connect({Loopback(), upstream_port_}, error);
      if (!error) {
        Copy({pipe, pipe->client, pipe->upstream, pipe->up_buffer, up_});
        Copy({pipe, pipe->upstream, pipe->client, pipe->down_buffer, down_});
      }
      Accept();
    });
  }

  void Copy(const Way& way) {
    way.from.async_read_some(boost::asio::buffer(way.buffer), [this, way](auto error, size_t n) {
      if (error) return Close(*way.pipe);
      const Verdict verdict = way.direction.hook(way.direction.n_seen, std::span(way.buffer).first(n));
      way.direction.n_seen += n;
      boost::asio::async_write(way.to, boost::asio::buffer(way.buffer, verdict.n_passed),
                               [this, way, after = verdict.after](auto failed, size_t) {
                                 if (failed || after == After::kClose) return Close(*way.pipe);
                                 if (after == After::kGoOn) Copy(way);
                               });
    });
  }

  static void Close(Pipe& pipe) {
    boost::system::error_code ignored;
    pipe.client.close(ignored);
    pipe.upstream.close(ignored);
  }

  const uint16_t upstream_port_;
  // The relay's thread owns what is below.
  Direction down_;
  Direction up_;
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::thread thread_;
};

}  // namespace longshelf::kvstore
