#pragma once

#include <csignal>
#include <functional>
#include <thread>

namespace longshelf::engine {

// A thread that takes no signals: they belong to the others.
inline std::thread StartQuietThread(std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace longshelf::engine
