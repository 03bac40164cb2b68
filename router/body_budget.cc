#include "router/body_budget.h"

#include <utility>

namespace longshelf::router {
namespace {

constexpr uint64_t kSmallBytes = uint64_t{64} << 10;

}  // namespace

BodyBudget::BodyBudget(uint64_t n_bytes_max) : accounts_(std::make_shared<Accounts>(n_bytes_max)) {}

BodyBudget::Lease::Lease(std::shared_ptr<Accounts> accounts, std::string payer)
    : accounts_(std::move(accounts)), payer_(std::move(payer)) {}

BodyBudget::Lease::~Lease() { Resize(0); }

bool BodyBudget::Lease::Resize(uint64_t n_bytes) {
  const std::lock_guard lock(accounts_->mutex);
  const auto account = accounts_->taken_by.try_emplace(payer_).first;
  if (n_bytes > n_bytes_) {
    const uint64_t n_more = n_bytes - n_bytes_;
    const uint64_t n_free = accounts_->n_bytes_max - accounts_->n_taken;
    // Its first body only has to fit, and so has a small one: that is not to be refused for the large ones beside it.
    const bool only_fits = account->second == n_bytes_ || n_bytes <= kSmallBytes;
    const bool fits = n_more <= n_free && (only_fits || account->second + n_more <= n_free - n_more);
    if (!fits) {
      if (account->second == 0) accounts_->taken_by.erase(account);
      return false;
    }
  }
  account->second = account->second - n_bytes_ + n_bytes;
  accounts_->n_taken = accounts_->n_taken - n_bytes_ + n_bytes;
  n_bytes_ = n_bytes;
  if (account->second == 0) accounts_->taken_by.erase(account);
  return true;
}

std::shared_ptr<BodyBudget::Lease> BodyBudget::Take(const std::string& payer, uint64_t n_bytes) {
  auto lease = std::make_shared<Lease>(accounts_, payer);
  return lease->Resize(n_bytes) ? lease : nullptr;
}

uint64_t BodyBudget::n_taken() const {
  const std::lock_guard lock(accounts_->mutex);
  return accounts_->n_taken;
}

}  // namespace longshelf::router
