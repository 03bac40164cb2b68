#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace longshelf::engine {

// What the hosts of a group tell each other beside MPI, which says nothing while a shard idles and never notices a host
// that vanished: the leader's bell, and that the other side still lives. One TCP connection from the first shard of
// every other host to shard 0. Both sides say something every `beat`; a side that hears nothing for `silence`, or whose
// connection breaks, calls `lost`. Everything is read and timed on one thread of its own, so a busy or stopped engine
// thread does not look like a dead host, and `lost` and `rung` run there.
class HostLinks {
 public:
  struct Options {
    absl::Duration beat = absl::Milliseconds(500);
    absl::Duration silence = absl::Seconds(5);
    std::function<void(const std::string& reason)> lost;
    std::function<void()> rung;  // not the leader: shard 0 has rung
  };
  // Where the leader listens and what a peer must know to be let in.
  struct Invitation {
    std::string host;  // numeric address
    uint16_t port = 0;
    std::string key;  // kKeyBytes random bytes

    std::string Serialize() const;
    static absl::StatusOr<Invitation> Parse(const std::string& text);
  };
  static constexpr size_t kKeyBytes = 16;

  // Shard 0: listens on "ADDRESS:PORT" (port 0: any) for the hosts `peers`, named for messages. UNAVAILABLE: cannot
  // listen there.
  static absl::StatusOr<std::unique_ptr<HostLinks>> Lead(const std::string& listen, std::vector<std::string> peers,
                                                         Options options);
  // First shard of another host, `index` of Lead's peers. UNAVAILABLE: cannot connect within `timeout`, with the
  // address and reason.
  static absl::StatusOr<std::unique_ptr<HostLinks>> Join(const Invitation& invitation, size_t index,
                                                         absl::Duration timeout, Options options);
  ~HostLinks();
  HostLinks(const HostLinks&) = delete;
  HostLinks& operator=(const HostLinks&) = delete;

  const Invitation& invitation() const { return invitation_; }
  // Leader: all peers are connected. UNAVAILABLE: not within `timeout`, naming those that are missing.
  absl::Status AwaitPeers(absl::Duration timeout);
  // Leader, any thread: every peer's `rung` will be called once more.
  void Ring();
  // Any thread: why this side is about to end, for the other sides' `lost`; at most kWordsBytes of it.
  void Say(const std::string& words);
  static constexpr size_t kWordsBytes = 500;
  // Peers may leave from now on.
  void Disarm() { armed_.store(false); }

 private:
  struct Peer {
    std::string name;
    int fd = -1;
    int64_t heard_ns = 0;  // when something came last
    std::string partial;   // of a message
    std::string words;     // why it ends
  };
  // A connection that has not said hello yet. The thread's.
  struct Guest {
    int fd = -1;
    int64_t until_ns = 0;
    std::string said;
  };
  explicit HostLinks(Options options) : options_(std::move(options)) {}
  void Start();
  void Loop();
  void Accept();
  bool Welcome(Guest& guest);
  void Read(Peer& peer);
  // The bytes of what is a whole message at the beginning of `bytes`; 0: there is none.
  size_t TakeMessage(Peer& peer, std::string_view bytes);
  void CheckSilence();
  void SendToAll(std::string_view message);
  void Lose(Peer& peer, const std::string& how);

  const Options options_;
  Invitation invitation_;
  int listen_fd_ = -1;
  int wake_fd_ = -1;
  std::atomic<bool> armed_{true};
  std::atomic<bool> stopping_{false};
  // Guards peers_: the thread reads and closes, Ring() writes from the engine thread, AwaitPeers() looks.
  std::mutex mutex_;
  std::vector<Peer> peers_;
  std::condition_variable joined_;
  std::vector<Guest> guests_;
  std::thread thread_;
};

}  // namespace longshelf::engine
