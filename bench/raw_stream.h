#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace longshelf::kvstore {

// What gRPC costs when nobody computes anything: the same payloads in the same frames over one stream, in either
// direction, with the settings of our own calls; sent from where they lie, and copied once by the receiver.
class RawStream {
 public:
  // `target` is what received bytes are copied into, at least two frames. Both must outlive this.
  RawStream(std::span<const std::span<const std::byte>> payloads, std::span<std::byte> target);
  ~RawStream();

  void Get();  // from server to client
  void Put();  // from client to server

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longshelf::kvstore
