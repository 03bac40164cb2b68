#include "data_keys.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "byte_codec.h"
#include "common/log.h"
#include "common/status.h"

namespace longshelf::kvstore::disk {
namespace {

constexpr absl::string_view kKeySuffix = ".key";
constexpr absl::string_view kTemporarySuffix = ".tmp";
// Behind the name of a damaged file that another has replaced.
constexpr absl::string_view kAsideSuffix = ".damaged";

// All of a head that never changes, but the digest: that is in the message. A copy of the object in another segment,
// with a longer retention, is the same message.
std::string AssociatedData(const ObjectHead& head) {
  std::string text = "longshelf kvstore object/1";
  ByteWriter writer(&text);
  writer.Bytes(head.key.hash);
  writer.Number(static_cast<uint8_t>(head.key.kind));
  writer.Bytes(head.parent);
  writer.Bytes(head.extent);
  writer.Number(head.depth_tokens);
  writer.Bytes(head.fingerprint);
  writer.Number(head.payload_bytes);
  writer.Bytes(head.namespace_id);
  return text;
}

std::string AssociatedData(const KeyFile& file) {
  std::string text = "longshelf kvstore data key/1";
  ByteWriter writer(&text);
  writer.Bytes(file.id);
  writer.Bytes(file.namespace_id);
  return text;
}

template <typename Array>
std::span<std::byte> BytesOf(Array& array) {
  return std::as_writable_bytes(std::span(array));
}

std::string NameOf(const std::string& namespace_id) { return absl::StrCat(ShortHashHex(namespace_id), kKeySuffix); }

}  // namespace

DataKeys::DataKeys(FileSystem& file_system, const std::string& directory, std::unique_ptr<const SecretKey> master,
                   size_t n_max)
    : file_system_(file_system),
      parent_(directory),
      directory_(directory + "/keys"),
      master_(std::move(master)),
      check_(CheckOf(*master_)),
      n_max_(n_max) {
  FillRandom(salt_);
}

std::string DataKeys::PathOf(const std::string& namespace_id) const {
  return absl::StrCat(directory_, "/", NameOf(namespace_id));
}

absl::Status DataKeys::Load() {
  RETURN_IF_ERROR(file_system_.CreateDirectory(directory_));
  RETURN_IF_ERROR(file_system_.SyncDirectory(parent_));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, file_system_.List(directory_));
  for (const std::string& name : names) {
    if (absl::EndsWith(name, kTemporarySuffix))
      RETURN_IF_ERROR(file_system_.Remove(absl::StrCat(directory_, "/", name)));
    if (absl::EndsWith(name, kKeySuffix)) RETURN_IF_ERROR(LoadFile(name));
  }
  // Whose removal failed half way, or who was killed then, is told that they are gone when he asks again.
  return file_system_.SyncDirectory(directory_);
}

absl::Status DataKeys::LoadFile(const std::string& name) {
  const std::string path = absl::StrCat(directory_, "/", name);
  const auto damaged = [&](absl::string_view why) {
    ++n_damaged_;
    spdlog::error("{} is damaged ({}): what is encrypted under it is lost", path, std::string(why));
    return absl::OkStatus();
  };
  AlignedBuffer sector(kSectorBytes);
  ASSIGN_OR_RETURN(const std::unique_ptr<File> opened, file_system_.Open(path, /*create=*/false));
  const absl::Status read = opened->ReadFully(0, sector.span());
  if (absl::IsOutOfRange(read)) return damaged(read.message());
  if (!read.ok()) return Annotate(read, path);
  absl::StatusOr<KeyFile> file = ParseKeyFile(std::as_const(sector).span().first<kSectorBytes>());
  if (absl::IsFailedPrecondition(file.status())) return Annotate(file.status(), path);
  if (!file.ok()) return damaged(file.status().message());
  if (file->master_check != check_) {
    return absl::FailedPreconditionError(
        absl::StrCat("--disk-key-file: ", path, " was written under another master key; give that one"));
  }
  if (name != NameOf(file->namespace_id)) return damaged("the key of another namespace");
  const std::span<std::byte> pieces[] = {BytesOf(file->wrapped)};
  const bool whole = disk::Decrypt(*master_, AssociatedData(*file), pieces, file->gcm);
  auto key = std::make_shared<DataKey>();
  key->id = file->id;
  key->secret = std::make_unique<SecretKey>(file->wrapped);
  OPENSSL_cleanse(file->wrapped.data(), file->wrapped.size());
  std::lock_guard lock(mutex_);
  if (!whole) {
    keyless_.insert(file->namespace_id);
    return damaged("not what was written under the master key");
  }
  keys_[file->namespace_id] = std::move(key);
  return absl::OkStatus();
}

size_t DataKeys::size() const {
  std::lock_guard lock(mutex_);
  return keys_.size();
}

std::set<std::string> DataKeys::Namespaces() const {
  std::lock_guard lock(mutex_);
  std::set<std::string> namespaces;
  for (const auto& [id, key] : keys_) namespaces.insert(namespaces.end(), id);
  namespaces.insert(keyless_.begin(), keyless_.end());
  return namespaces;
}

void DataKeys::NoteKeyless(const std::string& namespace_id) {
  std::lock_guard lock(mutex_);
  if (n_damaged_ > 0 && !keys_.contains(namespace_id)) keyless_.insert(namespace_id);
}

DataKeys::KeyRef DataKeys::Find(const std::string& namespace_id) const {
  std::lock_guard lock(mutex_);
  const auto it = keys_.find(namespace_id);
  return it == keys_.end() ? nullptr : it->second;
}

DataKeys::KeyRef DataKeys::KeyOf(const Record& record) const {
  KeyRef key = Find(record.head.namespace_id);
  return key != nullptr && record.encryption.has_value() && key->id == record.encryption->key_id ? key : nullptr;
}

absl::StatusOr<DataKeys::KeyRef> DataKeys::Create(const std::string& namespace_id) {
  if (is_full()) {
    return absl::ResourceExhaustedError(absl::StrCat(n_max_, " namespaces have a key on disk; no more may"));
  }
  auto key = std::make_shared<DataKey>();
  FillRandom(key->id);
  key->secret = SecretKey::Random();
  KeyFile file{.master_check = check_, .namespace_id = namespace_id, .id = key->id, .gcm = {}};
  file.gcm.salt = salt_;
  file.gcm.count = next_count_++;
  std::copy(key->secret->bytes().begin(), key->secret->bytes().end(), file.wrapped.begin());
  const std::span<std::byte> pieces[] = {BytesOf(file.wrapped)};
  disk::Encrypt(*master_, AssociatedData(file), pieces, file.gcm);
  RETURN_IF_ERROR(SetAside(PathOf(namespace_id)));
  RETURN_IF_ERROR(Store(PathOf(namespace_id), file));
  std::lock_guard lock(mutex_);
  keys_[namespace_id] = key;
  return key;
}

absl::Status DataKeys::SetAside(const std::string& path) {
  const absl::Status there = file_system_.Open(path, /*create=*/false).status();
  if (absl::IsNotFound(there)) return absl::OkStatus();
  RETURN_IF_ERROR(there);
  return file_system_.Rename(path, absl::StrCat(path, kAsideSuffix));
}

absl::Status DataKeys::Store(const std::string& path, const KeyFile& file) {
  const std::string temporary = absl::StrCat(path, kTemporarySuffix);
  AlignedBuffer sector(kSectorBytes);
  EncodeKeyFile(file, sector.span().first<kSectorBytes>());
  absl::Status status;
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<File> out, file_system_.Open(temporary, /*create=*/true));
    status = out->WriteFully(0, {sector.span()});
    if (status.ok()) status = out->SyncData();
  }
  if (status.ok()) status = file_system_.Rename(temporary, path);
  if (!status.ok()) {
    (void)file_system_.Remove(temporary);
    return status;
  }
  return file_system_.SyncDirectory(directory_);
}

absl::Status DataKeys::Encrypt(Record& record, std::span<std::byte> payload) {
  KeyRef key = Find(record.head.namespace_id);
  if (key == nullptr) {
    ASSIGN_OR_RETURN(key, Create(record.head.namespace_id));
  }
  ObjectEncryption& encryption = record.encryption.emplace();
  encryption.key_id = key->id;
  encryption.digest = record.head.digest;
  encryption.gcm.salt = salt_;
  encryption.gcm.count = next_count_++;
  const std::span<std::byte> pieces[] = {BytesOf(encryption.digest), payload};
  disk::Encrypt(*key->secret, AssociatedData(record.head), pieces, encryption.gcm);
  return absl::OkStatus();
}

absl::Status DataKeys::Shred(const std::string& namespace_id) {
  {
    std::lock_guard lock(mutex_);
    keys_.erase(namespace_id);
    keyless_.insert(namespace_id);
  }
  // Also those that could not be read.
  const std::string path = PathOf(namespace_id);
  RETURN_IF_ERROR(Destroy(absl::StrCat(path, kAsideSuffix)));
  RETURN_IF_ERROR(Destroy(path));
  std::lock_guard lock(mutex_);
  keyless_.erase(namespace_id);
  return absl::OkStatus();
}

absl::Status DataKeys::Destroy(const std::string& path) {
  absl::StatusOr<std::unique_ptr<File>> file = file_system_.Open(path, /*create=*/false);
  // Also when it is gone: that may not be on the device.
  if (absl::IsNotFound(file.status())) return file_system_.SyncDirectory(directory_);
  if (!file.ok()) return file.status();
  RETURN_IF_ERROR(file_system_.Remove(path));
  RETURN_IF_ERROR(file_system_.SyncDirectory(directory_));
  // The name is gone; its bytes too, as far as the file system and the device write in place. Not before: half a key is
  // damage, and none is not.
  AlignedBuffer zeros(kSectorBytes);
  std::memset(zeros.span().data(), 0, zeros.size());
  absl::Status status = (*file)->WriteFully(0, {zeros.span()});
  if (status.ok()) status = (*file)->SyncData();
  if (!status.ok()) spdlog::warn("a removed key was not overwritten: {}", std::string(status.message()));
  return absl::OkStatus();
}

absl::Status DataKeys::RemoveUnused(const std::set<std::string>& used) {
  std::vector<std::string> unused;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [namespace_id, key] : keys_) {
      if (!used.contains(namespace_id)) unused.push_back(namespace_id);
    }
    for (const std::string& namespace_id : unused) {
      keys_.erase(namespace_id);
      keyless_.insert(namespace_id);
    }
  }
  for (const std::string& namespace_id : unused) {
    const absl::Status aside = file_system_.Remove(absl::StrCat(PathOf(namespace_id), kAsideSuffix));
    if (!aside.ok() && !absl::IsNotFound(aside)) return aside;
    RETURN_IF_ERROR(file_system_.Remove(PathOf(namespace_id)));
    std::lock_guard lock(mutex_);
    keyless_.erase(namespace_id);
  }
  return unused.empty() ? absl::OkStatus() : file_system_.SyncDirectory(directory_);
}

absl::Status DataKeys::Decrypt(Record& record, std::span<std::byte> payload) const {
  const KeyRef key = KeyOf(record);
  if (key == nullptr) return absl::NotFoundError("its namespace was removed");
  record.head.digest = record.encryption->digest;
  const std::span<std::byte> pieces[] = {BytesOf(record.head.digest), payload};
  if (disk::Decrypt(*key->secret, AssociatedData(record.head), pieces, record.encryption->gcm)) {
    return absl::OkStatus();
  }
  return absl::DataLossError("the bytes on disk are not those that were encrypted");
}

bool DataKeys::DecryptDigest(Record& record) const {
  const KeyRef key = KeyOf(record);
  if (key == nullptr) return false;
  record.head.digest = record.encryption->digest;
  DecryptUnverified(*key->secret, BytesOf(record.head.digest), record.encryption->gcm);
  return true;
}

}  // namespace longshelf::kvstore::disk
