#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace longshelf::router {

// What says of a thinking block that this service wrote it, for this tenant: base64 of HMAC-SHA256(secret,
// "thinking/1/" tenant "/" SHA-256(text)). Any router with the same secret checks what another one signed.
class ThinkingSigner {
 public:
  ThinkingSigner(std::string secret, std::string tenant) : secret_(std::move(secret)), tenant_(std::move(tenant)) {}
  bool Verify(std::string_view text, std::string_view signature) const;

  // Of a text that comes in pieces.
  class Signature {
   public:
    explicit Signature(const ThinkingSigner& signer);
    ~Signature();
    Signature(Signature&&) noexcept;
    Signature& operator=(Signature&&) noexcept;
    void Add(std::string_view text);
    std::string Finish();  // once

   private:
    struct Digest;
    const ThinkingSigner* signer_;
    std::unique_ptr<Digest> digest_;
  };

 private:
  std::string SignDigest(std::string_view digest) const;
  std::string secret_;
  std::string tenant_;
};

}  // namespace longshelf::router
