#pragma once

#include <memory>
#include <utility>

#include "items.h"
#include "kvstore/blocking_client.h"
#include "kvstore/client.h"

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

}  // namespace longshelf::kvstore
