#pragma once

#include <string>
#include <string_view>

#include "router/api_error.h"
#include "router/choice_output.h"
#include "router/completion.h"

namespace longshelf::router {

// An answer in the form of one API, as a stream of events or in one piece. Every call returns the bytes that go to the
// client now, whole events if it is a stream; "" when there are none. Owner: the router loop.
class AnswerWriter {
 public:
  virtual ~AnswerWriter() = default;

  // What the client has already of an answer that goes on. Before everything else.
  virtual void Skip(uint32_t choice, const ChoiceDelta& delta) = 0;
  // A worker has begun. `fingerprint` names its model; of `usage` the prompt's share is known.
  virtual void AnsweredBy(std::string fingerprint, const Usage& usage) = 0;
  // The first events; once, before those below.
  virtual std::string Opening() = 0;
  virtual std::string Delta(uint32_t choice, const ChoiceDelta& delta) = 0;
  virtual std::string Finished(uint32_t choice, const ChoiceEnd& end) = 0;
  // The last bytes; of an answer in one piece all of them.
  virtual std::string Done(const Usage& usage) = 0;
  // Instead of Done, when the status was sent already.
  virtual std::string Error(const ApiError& error) = 0;
  // In the middle of silence.
  virtual std::string Progress(const PrefillProgress& progress) = 0;
  virtual std::string KeepAlive() = 0;

  virtual bool is_stream() const = 0;
};

}  // namespace longshelf::router
