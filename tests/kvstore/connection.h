#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "kvstore/blocking_client.h"
#include "kvstore/client.h"
#include "objects.h"

namespace longshelf::kvstore {

// A client of a test, and its blocking face. Empty until assigned.
class Connection {
 public:
  Connection() = default;
  explicit Connection(const ClientOptions& options)
      : client_(std::move(*MakeClient(options))), blocking_(std::make_unique<BlockingClient>(*client_)) {}

  BlockingClient* operator->() const { return blocking_.get(); }
  Client& client() const { return *client_; }
  // Ends the client with whatever it still does.
  void Close() { client_.reset(); }

 private:
  std::unique_ptr<Client> client_;
  std::unique_ptr<BlockingClient> blocking_;
};

inline PutItem ItemOf(const Object& object) {
  return {object.head, std::make_shared<const std::vector<std::byte>>(object.payload)};
}

inline GetItem WantOf(const Object& object) { return {object.head.key, object.payload.size()}; }

}  // namespace longshelf::kvstore
