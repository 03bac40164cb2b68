#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/chat_session.h"
#include "cli/http_client.h"
#include "commands.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/shutdown.h"
#include "common/status.h"
#include "line_reader.h"

namespace longshelf::cli {
namespace {

constexpr char kHelp[] =
    "/reset  forget the conversation\n"
    "/quit   leave (so does Ctrl-D)\n"
    "/help   this text\n"
    "Ctrl-C stops an answer. A line that ends with \\ goes on in the next.\n";

struct ChatConfig {
  std::string url = "http://127.0.0.1:8080";
  std::string api_key;
  net::TlsFiles tls;
  std::string reasoning = "auto";
  bool whole_input = false;
  int64_t max_tokens = 0;
  double temperature = -1;
  double top_p = -1;
  int64_t seed = -1;
  ChatSettings settings;
};

void AddOptions(ConfigSpec& spec, ChatConfig* config) {
  spec.set_unknown_env(ConfigSpec::UnknownEnv::kIgnore);
  spec.Add(&config->url, "url", "where the router listens");
  spec.AddSecretFile(&config->api_key, "api-key-file", "file with the API key");
  spec.Add(&config->tls.authority, "ca-file",
           "PEM file with the authority that has signed the router's certificate; the system's when not given");
  spec.Add(&config->tls.certificate, "cert-file", "PEM file with our certificate, for a router that wants one");
  spec.Add(&config->tls.key, "key-file", "PEM file with its key");
  spec.Add(&config->settings.model, "model", "model to ask; the first that the server lists when not given");
  spec.Add(&config->settings.system, "system", "system message");
  spec.AddChoice(&config->settings.thinking, "thinking", "whether the model thinks before it answers",
                 {"enabled", "disabled"});
  spec.AddChoice(&config->settings.effort, "effort", "how much it thinks", {"low", "medium", "high", "max"});
  spec.Add(&config->max_tokens, "max-tokens", "longest answer; 0 = the server's limit", {0, int64_t{1} << 31});
  spec.Add(&config->temperature, "temperature", "0 = always the likeliest token; -1 = the server's default", {-1, 2});
  spec.Add(&config->top_p, "top-p", "-1 = the server's default", {-1, 1});
  spec.Add(&config->seed, "seed", "the same seed gives the same answer; -1 = any", {-1, int64_t{1} << 62});
  spec.AddChoice(&config->reasoning, "reasoning", "whether to show it; auto: on a terminal only",
                 {"auto", "show", "hide"});
  spec.Add(&config->whole_input, "whole-input", "read all of standard input as one message");
}

// A conversation at a terminal, or through a pipe.
class Chat {
 public:
  Chat(ChatConfig config, HttpUrl url, net::SslContext tls, ShutdownSignals& signals)
      : config_(std::move(config)),
        url_(std::move(url)),
        tls_(std::move(tls)),
        signals_(signals),
        lines_(signals),
        interactive_(isatty(STDIN_FILENO) != 0),
        styled_(isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr),
        show_reasoning_(config_.reasoning == "show" || (config_.reasoning == "auto" && isatty(STDOUT_FILENO) != 0)) {}

  int Run() {
    if (const absl::Status status = ChooseModel(); !status.ok()) {
      std::cerr << "longshelf chat: " << status.message() << "\n";
      return kExitUnavailable;
    }
    ChatSession session(config_.settings);
    if (interactive_) std::cerr << config_.settings.model << " at " << config_.url << ". /help lists commands.\n";
    std::string text;
    while (ReadMessage(&text)) {
      const std::string command(absl::StripAsciiWhitespace(text));
      if (command.empty()) continue;
      if (command == "/quit" || command == "/exit") break;
      if (command == "/help") {
        std::cerr << kHelp;
      } else if (command == "/reset") {
        session.Reset();
        std::cerr << "forgotten\n";
      } else if (command[0] == '/' && command.find_first_of(" /", 1) == std::string::npos) {
        std::cerr << "unknown command " << command << "\n" << kHelp;
      } else {
        Ask(session, text);
        if (ended_by_signal_) break;
      }
    }
    return failed_ && !interactive_ ? 1 : 0;
  }

 private:
  HttpCall Call(std::string method, std::string target) const {
    HttpCall call;
    call.method = std::move(method);
    call.target = std::move(target);
    call.interrupt_fd = signals_.fd();
    call.tls = tls_;
    if (!config_.api_key.empty()) call.headers.emplace_back("Authorization", "Bearer " + config_.api_key);
    return call;
  }

  absl::Status ChooseModel() {
    HttpCall call = Call("GET", "/v1/models");
    call.idle_timeout = absl::Seconds(10);
    const absl::StatusOr<HttpAnswer> answer = CallHttp(url_, call);
    if (!answer.ok()) return Annotate(answer.status(), absl::StrCat(config_.url, " (is it running? longshelf up)"));
    if (answer->status != 200) return absl::UnavailableError(ErrorMessage(answer->body));
    if (!config_.settings.model.empty()) return absl::OkStatus();
    const std::vector<std::string> names = ModelNames(answer->body);
    if (names.empty()) return absl::UnavailableError("the server has no model yet; try again in a moment");
    config_.settings.model = names[0];
    return absl::OkStatus();
  }

  // False at the end.
  bool ReadMessage(std::string* text) {
    if (config_.whole_input) return lines_.ReadAll(text) == LineReader::Result::kLine;
    text->clear();
    while (true) {
      if (interactive_) std::cerr << (text->empty() ? "> " : "... ") << std::flush;
      std::string line;
      switch (lines_.Read(&line)) {
        case LineReader::Result::kEnd:
          if (interactive_) std::cerr << "\n";
          return !text->empty();
        case LineReader::Result::kSignal:
          if (!interactive_ || signals_.last_signal() == SIGTERM) return false;
          text->clear();
          std::cerr << "\n(/quit or Ctrl-D leaves)\n";
          continue;
        case LineReader::Result::kLine:
          break;
      }
      const bool goes_on = !line.empty() && line.back() == '\\';
      if (goes_on) line.back() = '\n';
      *text += line;
      if (!goes_on) return true;
    }
  }

  void Show(AnswerStream::Kind kind, const std::string& text) {
    const bool reasoning = kind == AnswerStream::Kind::kReasoning;
    if (reasoning && !show_reasoning_) return;
    if (reasoning != in_reasoning_) {
      // What was thought and what is answered are told apart by a line and, where possible, by brightness.
      if (styled_) std::cout << (reasoning ? "\x1b[2m" : "\x1b[0m");
      if (!reasoning) std::cout << "\n\n";
      in_reasoning_ = reasoning;
    }
    std::cout << (isatty(STDOUT_FILENO) != 0 ? ForTerminal(text) : text) << std::flush;
  }

  void Ask(ChatSession& session, const std::string& text) {
    const absl::Time start = clock_.Now();
    absl::Time first = absl::InfiniteFuture();
    AnswerStream stream([&](AnswerStream::Kind kind, const std::string& piece) {
      first = std::min(first, clock_.Now());
      Show(kind, piece);
    });
    HttpCall call = Call("POST", "/v1/chat/completions");
    call.headers.emplace_back("Content-Type", "application/json");
    call.body = session.RequestBody(text);
    call.on_body = [&stream](absl::string_view piece) { stream.Feed(piece); };
    const absl::StatusOr<HttpAnswer> answer = CallHttp(url_, call);
    if (std::exchange(in_reasoning_, false) && styled_) std::cout << "\x1b[0m";
    std::cout << std::endl;

    absl::Status status = answer.ok() ? stream.status() : answer.status();
    if (answer.ok() && answer->status != 200) status = absl::UnavailableError(ErrorMessage(answer->body));
    if (status.ok() && !stream.done()) status = absl::UnavailableError("the stream ended early");
    if (absl::IsCancelled(status)) {
      signals_.Wait(absl::ZeroDuration());
      ended_by_signal_ = signals_.last_signal() == SIGTERM;
      std::cerr << "(stopped)\n";
    } else if (!status.ok()) {
      failed_ = true;
      std::cerr << "longshelf chat: " << ForTerminal(std::string(status.message())) << "\n";
    }
    // An answer cut short still happened; one that never began did not.
    if (!stream.content().empty()) session.AddTurn(text, stream.content());
    if (status.ok()) ShowFigures(stream, start, first);
  }

  void ShowFigures(const AnswerStream& stream, absl::Time start, absl::Time first) const {
    if (stream.n_completion_tokens() < 0 || first == absl::InfiniteFuture()) return;
    const double seconds = absl::ToDoubleSeconds(clock_.Now() - first);
    std::string line = absl::StrCat(stream.n_completion_tokens(), " tokens");
    if (stream.n_completion_tokens() > 1 && seconds > 0) {
      absl::StrAppendFormat(&line, ", %.1f tokens/s", static_cast<double>(stream.n_completion_tokens() - 1) / seconds);
    }
    absl::StrAppendFormat(&line, ", first after %.2f s", absl::ToDoubleSeconds(first - start));
    if (stream.n_cached_tokens() >= 0) {
      absl::StrAppend(&line, ", ", stream.n_cached_tokens(), " of ", stream.n_prompt_tokens(),
                      " prompt tokens from cache");
    }
    if (stream.finish_reason() == "length") line += ", cut at the token limit";
    std::cerr << (styled_ ? "\x1b[2m" : "") << "[" << line << "]" << (styled_ ? "\x1b[0m" : "") << "\n";
  }

  ChatConfig config_;
  const HttpUrl url_;
  const net::SslContext tls_;
  ShutdownSignals& signals_;
  LineReader lines_;
  const SystemClock clock_;
  const bool interactive_;
  const bool styled_;
  const bool show_reasoning_;
  bool in_reasoning_ = false;
  bool failed_ = false;
  bool ended_by_signal_ = false;
};

}  // namespace

int RunChat(int argc, const char* const* argv) {
  ChatConfig config;
  ConfigSpec spec("longshelf chat",
                  "Talks to a model that a longshelf router (or any OpenAI-compatible server) serves.");
  AddOptions(spec, &config);
  if (const ParseOutcome outcome = spec.Parse(argc, argv); !outcome.run) return outcome.Finish();
  const absl::StatusOr<HttpUrl> url = ParseHttpUrl(config.url);
  if (!url.ok()) {
    std::cerr << "longshelf chat: --url: " << url.status().message() << "\n";
    return kExitUsage;
  }
  net::SslContext tls;
  if (url->tls) {
    absl::StatusOr<net::SslContext> made = MakeCallContext(config.tls);
    if (!made.ok()) {
      std::cerr << "longshelf chat: --ca-file, --cert-file, --key-file: " << made.status().message() << "\n";
      return kExitConfig;
    }
    tls = *std::move(made);
  }
  if (config.max_tokens > 0) config.settings.max_tokens = config.max_tokens;
  if (config.temperature >= 0) config.settings.temperature = config.temperature;
  if (config.top_p >= 0) config.settings.top_p = config.top_p;
  if (config.seed >= 0) config.settings.seed = config.seed;
  ShutdownSignals signals;
  return Chat(std::move(config), *url, std::move(tls), signals).Run();
}

}  // namespace longshelf::cli
