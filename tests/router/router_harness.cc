#include "router_harness.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "router/worker_client.h"
#include "test_authority.h"
#include "testing/fixtures.h"
#include "tokenizer/tokenizer.h"

namespace longshelf::router::testing {
namespace http = boost::beast::http;
using boost::asio::ip::tcp;

namespace {

#ifdef LONGSHELF_TEST_DOORS_WITH_TLS
// Made once: all tests of a program knock at doors with one certificate.
const net::TlsFiles& DoorFiles() {
  static const net::TlsFiles files = [] {
    net::TlsFiles made = net::TestAuthority().Write("door", net::Role::kRouter);
    made.authority.clear();
    return made;
  }();
  return files;
}

net::SslContext ContextOfClients() {
  net::TlsMaterial material;
  const std::filesystem::path authority = std::filesystem::path(DoorFiles().certificate).parent_path() / "ca.crt";
  material.authorities = net::ContentOf(authority);
  return net::MakeClientContext(material).value();
}
#else
const net::TlsFiles& DoorFiles() {
  static const net::TlsFiles none;
  return none;
}
net::SslContext ContextOfClients() { return nullptr; }
#endif

}  // namespace

std::shared_ptr<net::TlsIdentity> DoorIdentity() {
  static const SystemClock clock;
  return net::TlsIdentity::Load(DoorFiles(), clock, nullptr).value();
}

TestClient::TestClient(uint16_t port) : socket_(context_) {
  socket_.connect(tcp::endpoint(boost::asio::ip::address_v4::loopback(), port));
  // A test that would hang fails instead.
  const timeval patience{20, 0};
  setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  const net::SslContext context = ContextOfClients();
  if (context == nullptr) return;
  boost::system::error_code refused;  // a server that is full closes at once; the next read tells
  tls_.emplace(socket_, SSL_new(context.get()));
  tls_->handshake(boost::asio::ssl::stream_base::client, refused);
}

void TestClient::Send(std::string_view bytes) {
  boost::system::error_code ignored;  // a server may refuse before it has read everything
  const boost::asio::const_buffer buffer(bytes.data(), bytes.size());
  tls_ ? boost::asio::write(*tls_, buffer, ignored) : boost::asio::write(socket_, buffer, ignored);
}

Reply TestClient::Read() {
  http::response_parser<http::string_body> parser;
  parser.body_limit(boost::none);
  boost::system::error_code error;
  tls_ ? http::read(*tls_, buffer_, parser, error) : http::read(socket_, buffer_, parser, error);
  EXPECT_TRUE(!error || error == http::error::end_of_stream) << error.message();
  return parser.release();
}

size_t TestClient::ReadSome(char* to, size_t n_max, boost::system::error_code& error) {
  const boost::asio::mutable_buffer buffer(to, n_max);
  return tls_ ? tls_->read_some(buffer, error) : socket_.read_some(buffer, error);
}

std::string TestClient::ReadUntil(std::string_view marker) {
  char chunk[4096];
  boost::system::error_code error;
  while (raw_.find(marker) == std::string::npos && !error) raw_.append(chunk, ReadSome(chunk, sizeof chunk, error));
  return raw_;
}

bool TestClient::IsClosed() {
  char byte = 0;
  boost::system::error_code error;
  ReadSome(&byte, 1, error);
  return error == boost::asio::error::eof || error == boost::asio::error::connection_reset ||
         error == boost::asio::ssl::error::stream_truncated;
}

void TestClient::EndSending() { socket_.shutdown(tcp::socket::shutdown_send); }

void TestClient::Close() { socket_.close(); }

std::string RequestText(const std::string& method, const std::string& path, const std::string& body,
                        const Headers& headers) {
  std::string text = absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: localhost\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&text, name, ": ", value, "\r\n");
  if (!body.empty() || method == "POST") absl::StrAppend(&text, "Content-Length: ", body.size(), "\r\n");
  return absl::StrCat(text, "\r\n", body);
}

std::vector<uint32_t> RouterHarness::Tokens(const std::string& text) {
  static const auto tokenizer = tokenizer::Tokenizer::Load(longshelf::testing::ModelPath("demo"));
  return (*tokenizer)->Encode(text).value();
}

std::vector<uint32_t> RouterHarness::AnswerTokens() {
  return Tokens(absl::StrCat(kReasoning, "</think>", kContent, "<｜end▁of▁sentence｜>"));
}

RouterConfig RouterHarness::DefaultConfig() {
  RouterConfig config;
  config.model_dir = longshelf::testing::ModelPath("demo").string();
  config.listen = "127.0.0.1:0";
  config.grpc_listen = "127.0.0.1:0";
  config.admin.listen = "127.0.0.1:0";
  config.workers = {"fake"};
  config.public_tls = DoorFiles();
  return config;
}

RouterHarness::RouterHarness(size_t n_workers, RouterConfig config, Script script, uint32_t n_context_max,
                             bool stores_are_up) {
  for (size_t i = 0; i < n_workers; ++i) {
    workers.push_back(std::make_unique<FakeWorker>(script, /*fingerprint=*/1, n_context_max));
  }
  auto started = RouterService::Start(config, clock, [this](boost::asio::io_context& loop) {
    std::vector<std::unique_ptr<WorkerLink>> links;
    for (const auto& worker : workers) links.push_back(MakeWorkerClient({}, worker->Channel(), loop));
    return links;
  });
  EXPECT_TRUE(started.ok()) << started.status();
  service = *std::move(started);
  if (!config.kvstores.empty() && stores_are_up) AwaitNamespaces();
}

void RouterHarness::AwaitNamespaces() {
  const absl::Time patience = clock.Now() + absl::Seconds(10);
  while (Metrics().find("\nlongshelf_router_namespaces_read 1\n") == std::string::npos)
    ASSERT_LT(clock.Now(), patience);
}

Reply RouterHarness::Do(const std::string& method, const std::string& path, const std::string& body,
                        const Headers& headers) {
  TestClient client(service->http_port());
  client.Send(RequestText(method, path, body, headers));
  return client.Read();
}

std::string ChatBody(const std::string& extra) {
  return absl::StrCat(R"({"messages":[{"role":"user","content":"hi"}])", extra.empty() ? "" : ",", extra, "}");
}

Reply RouterHarness::Chat(const std::string& extra, const Headers& headers) {
  return Do("POST", "/v1/chat/completions", ChatBody(extra), headers);
}

StreamedText ParseStream(const std::string& body) {
  StreamedText text;
  for (const absl::string_view line : absl::StrSplit(body, '\n')) {
    if (line == "data: [DONE]") text.done = true;
    if (line.substr(0, 6) != "data: " || text.done) continue;
    const auto json = nlohmann::json::parse(line.substr(6), nullptr, false);
    if (json.contains("error")) ++text.n_errors;
    if (!json.contains("choices") || json["choices"].empty()) continue;
    const auto& choice = json["choices"][0];
    const auto take = [&](const char* name, std::string& out) {
      if (choice["delta"].contains(name) && choice["delta"][name].is_string()) {
        out += choice["delta"][name].get<std::string>();
      }
    };
    take("reasoning_content", text.reasoning);
    take("content", text.content);
    for (const auto& call : choice["delta"].value("tool_calls", nlohmann::json::array())) {
      text.tool_name += call["function"].value("name", "");
      text.tool_arguments += call["function"].value("arguments", "");
    }
    if (choice["finish_reason"].is_string()) text.finish_reason = choice["finish_reason"].get<std::string>();
  }
  return text;
}

}  // namespace longshelf::router::testing
