#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "aes_gcm.h"
#include "file_system.h"
#include "record_format.h"

namespace longshelf::kvstore::disk {

// The keys that objects on disk are encrypted under: each namespace has its own, in a file of its own in keys/, wrapped
// by the master key. Without its file nothing of a namespace can be read any more, wherever its bytes still are.
//
// A key is durable before the first object that is encrypted under it is handed out for writing, and its file is gone
// for good before Shred returns. A namespace that comes back gets a new key.
//
// Thread safe: the writer encrypts and shreds, readers decrypt. A key lives until the last of them is done with it.
class DataKeys {
 public:
  // `n_max`: namespaces with a key at once. The file system must outlive this.
  DataKeys(FileSystem& file_system, const std::string& directory, std::unique_ptr<const SecretKey> master,
           size_t n_max);

  // Reads what is there; a file that is damaged is left alone and counted. What was removed before is gone for good.
  // FAILED_PRECONDITION: the keys are wrapped by another master key. As the device says: one could not be read, and may
  // be whole.
  absl::Status Load();

  // Of the master key.
  const KeyCheck& check() const { return check_; }
  uint64_t n_damaged() const { return n_damaged_; }
  size_t size() const;
  // Also those whose key cannot be used, but may be there.
  std::set<std::string> Namespaces() const;
  // Something of a namespace without a key is on the device: its key may be in a file that is damaged.
  void NoteKeyless(const std::string& namespace_id);
  bool is_full() const { return size() >= n_max_; }

  // The writer's. Encrypts the payload in place and says in the record how. Makes the namespace's key if it has none.
  // RESOURCE_EXHAUSTED: as many namespaces as there may be have one, or the device is full.
  absl::Status Encrypt(Record& record, std::span<std::byte> payload);
  // The writer's. Removes the namespace's key, if there is one, from memory and from the device.
  absl::Status Shred(const std::string& namespace_id);
  // The writer's. Makes room: removes the keys of all other namespaces.
  absl::Status RemoveUnused(const std::set<std::string>& used);

  // The payload in place, and the digest in the record's head.
  // NOT_FOUND: the key is gone. DATA_LOSS: this is not what was encrypted.
  absl::Status Decrypt(Record& record, std::span<std::byte> payload) const;
  // Only the digest, which is not verified until the whole is decrypted. False: the key is gone.
  bool DecryptDigest(Record& record) const;

 private:
  struct DataKey {
    KeyId id{};
    std::unique_ptr<const SecretKey> secret;
  };
  using KeyRef = std::shared_ptr<const DataKey>;

  std::string PathOf(const std::string& namespace_id) const;
  absl::Status LoadFile(const std::string& name);
  KeyRef Find(const std::string& namespace_id) const;
  // The key that the record names, or null.
  KeyRef KeyOf(const Record& record) const;
  absl::StatusOr<KeyRef> Create(const std::string& namespace_id);
  absl::Status Store(const std::string& path, const KeyFile& file);
  // Moves a damaged file out of the way of a new one.
  absl::Status SetAside(const std::string& path);
  // A file's name, and then its bytes as far as they are written in place.
  absl::Status Destroy(const std::string& path);

  FileSystem& file_system_;
  const std::string parent_;
  const std::string directory_;
  const std::unique_ptr<const SecretKey> master_;
  const KeyCheck check_;
  const size_t n_max_;
  uint64_t n_damaged_ = 0;

  // The writer's: names the next message.
  Salt salt_{};
  uint64_t next_count_ = 0;

  mutable std::mutex mutex_;            // guards the rest: readers of objects look keys up
  std::map<std::string, KeyRef> keys_;  // by namespace
  std::set<std::string> keyless_;       // namespaces of which a file may be there all the same
};

}  // namespace longshelf::kvstore::disk
