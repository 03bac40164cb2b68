#pragma once

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "fake_worker.h"
#include "net/tls_identity.h"
#include "router/router_service.h"

namespace longshelf::router::testing {

using Reply = boost::beast::http::response<boost::beast::http::string_body>;
using Headers = std::vector<std::pair<std::string, std::string>>;

// The certificate of the router's HTTP door, where these tests are built to knock with TLS; null elsewhere.
std::shared_ptr<net::TlsIdentity> DoorIdentity();

// One client connection, blocking, with TLS where there is a DoorIdentity.
class TestClient {
 public:
  explicit TestClient(uint16_t port);
  void Send(std::string_view bytes);
  // A whole answer, chunked or not. EXPECTs that one comes.
  Reply Read();
  // Bytes as they come, until `marker` is among them or the connection ends; all that was read so far.
  std::string ReadUntil(std::string_view marker);
  // True when the server closed the connection.
  bool IsClosed();
  void EndSending();  // without a goodbye
  void Close();

 private:
  size_t ReadSome(char* to, size_t n_max, boost::system::error_code& error);

  boost::asio::io_context context_;
  boost::asio::ip::tcp::socket socket_;
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>> tls_;
  boost::beast::flat_buffer buffer_;
  std::string raw_;
};

std::string RequestText(const std::string& method, const std::string& path, const std::string& body = "",
                        const Headers& headers = {});

// A whole router on free ports, over fake workers.
class RouterHarness {
 public:
  // "I think so.</think>The answer is 42, café ☕ and more.<end>"
  static std::vector<uint32_t> AnswerTokens();
  static std::vector<uint32_t> Tokens(const std::string& text);
  static constexpr char kReasoning[] = "I think so.";
  static constexpr char kContent[] = "The answer is 42, café ☕ and more.";
  static RouterConfig DefaultConfig();  // its HTTP and gRPC doors with TLS where there is a DoorIdentity

  // With stores, it has read from them which namespaces were deleted.
  explicit RouterHarness(size_t n_workers = 1, RouterConfig config = DefaultConfig(), Script script = {AnswerTokens()},
                         uint32_t n_context_max = 8192, bool stores_are_up = true);

  Reply Do(const std::string& method, const std::string& path, const std::string& body = "",
           const Headers& headers = {});
  Reply Chat(const std::string& extra = "", const Headers& headers = {});
  std::string Metrics() const { return service->Metrics(); }
  void AwaitNamespaces();

  std::vector<std::unique_ptr<FakeWorker>> workers;
  SystemClock clock;
  std::unique_ptr<RouterService> service;
};

// {"messages":[...], extra}
std::string ChatBody(const std::string& extra = "");

// The concatenated deltas of a streamed chat answer.
struct StreamedText {
  std::string reasoning;
  std::string content;
  std::string tool_name;
  std::string tool_arguments;
  std::string finish_reason;
  bool done = false;
  size_t n_errors = 0;
};
StreamedText ParseStream(const std::string& body);

}  // namespace longshelf::router::testing
