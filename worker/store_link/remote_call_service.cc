#include "remote_call_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "forms_service.h"

namespace longshelf::worker {

absl::Status RemoteGet::OnReport(const v1::StoreReport& report) {
  if (!report.has_object()) return absl::InvalidArgumentError("a get is told of objects");
  if (report.object().index() != n_answered_ || complete()) {
    return absl::InvalidArgumentError(
        absl::StrCat("object ", report.object().index(), " is not due: ", n_answered_, " of ", n_items_, " have come"));
  }
  ASSIGN_OR_RETURN(ObjectResult object, ObjectFromWire(report.object()));
  events_.on_object(n_answered_++, std::move(object));
  return absl::OkStatus();
}

void RemoteGet::End(const absl::Status& status) {
  while (!complete()) events_.on_object(n_answered_++, status);
  events_.on_done(status);
  events_ = {};
}

absl::Status RemotePut::OnReport(const v1::StoreReport& report) {
  if (!report.has_outcome()) return absl::InvalidArgumentError("a put is told of outcomes");
  const size_t index = report.outcome().index();
  if (!unanswered_.contains(index)) {
    return absl::InvalidArgumentError(absl::StrCat("the outcome of object ", index, " is not due"));
  }
  ASSIGN_OR_RETURN(OutcomeResult outcome, OutcomeFromWire(report.outcome()));
  unanswered_.erase(index);
  events_.on_outcome(index, std::move(outcome));
  return absl::OkStatus();
}

void RemotePut::End(const absl::Status& status) {
  for (const size_t index : std::exchange(unanswered_, {})) events_.on_outcome(index, status);
  events_.on_done(status);
  events_ = {};
}

}  // namespace longshelf::worker
