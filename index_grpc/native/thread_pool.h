// A pool of threads that compute.
#pragma once

#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

// Runs the tasks of one job on the calling thread and on helper threads, whichever are free.
//
// No task waits for a thread that is not running: if another program occupies a core, the other threads do its share.
// Threads claim tasks by counting `ticket_` down: [ number of the job : 32 | unclaimed tasks : 32 ]. A claim can only
// succeed within the job for which it was meant, and a job ends when all its tasks have ended.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads) {
    try {
      for (int i = 1; i < num_threads; ++i) helpers_.emplace_back([this] { help(); });
    } catch (...) {  // the system gives no more threads
      dismiss();
      throw;
    }
  }

  ~ThreadPool() { dismiss(); }

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls task(i) once for each i from 0 to num_tasks - 1 and returns when all have returned. Rethrows the first
  // exception of a task; if helpers take part, only once all tasks have ended.
  template <class Task>
  void run(int num_tasks, const Task& task) {
    if (num_tasks <= 1 || helpers_.empty()) {
      for (int i = 0; i < num_tasks; ++i) task(i);
      return;
    }
    call_ = [](const void* job, int i) { (*static_cast<const Task*>(job))(i); };
    job_ = &task;
    num_tasks_ = num_tasks;
    num_done_.store(0, std::memory_order_relaxed);
    ++number_;
    ticket_.store(number_ << 32 | static_cast<uint32_t>(num_tasks));
    if (num_asleep_.load() > 0) wake_all();
    while (work()) {
    }
    for (int spins = 0; num_done_.load(std::memory_order_acquire) != num_tasks; ++spins) pause(spins);
    if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
  }

 private:
  static constexpr int kSpinsBeforeYield = 2'000;   // about 30 microseconds, longer than most tasks
  static constexpr int kSpinsBeforeSleep = 20'000;  // longer than the gap between two steps

  static void pause(int spins) {
    if (spins < kSpinsBeforeYield) {
      _mm_pause();
    } else {
      sched_yield();
    }
  }

  // Claims a task and runs it; returns false if there is none.
  bool work() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(ticket) != 0) {
      if (ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        try {
          call_(job_, num_tasks_ - static_cast<int>(static_cast<uint32_t>(ticket)));
        } catch (...) {
          keep(std::current_exception());
        }
        num_done_.fetch_add(1, std::memory_order_release);
        return true;
      }
    }
    return false;
  }

  // Keeps the first exception. The job ends only after this, so the thread that waits for it sees the exception.
  void keep(std::exception_ptr thrown) {
    std::lock_guard lock(mutex_);
    if (!thrown_) thrown_ = std::move(thrown);
  }

  void help() {
    int spins = 0;
    while (!ends_.load(std::memory_order_relaxed)) {
      if (work()) {
        spins = 0;
      } else if (++spins < kSpinsBeforeSleep) {
        pause(spins);
      } else {
        sleep();
        spins = 0;
      }
    }
  }

  void dismiss() {
    {
      std::lock_guard lock(mutex_);
      ends_ = true;
    }
    wake_.notify_all();
    for (auto& helper : helpers_) helper.join();
    helpers_.clear();
  }

  void sleep() {
    std::unique_lock lock(mutex_);
    num_asleep_.fetch_add(1);
    wake_.wait(lock, [this] { return ends_.load() || static_cast<uint32_t>(ticket_.load()) != 0; });
    num_asleep_.fetch_sub(1);
  }

  void wake_all() {
    { std::lock_guard lock(mutex_); }  // a helper about to sleep either waits by now or will see the new ticket
    wake_.notify_all();
  }

  std::atomic<uint64_t> ticket_{0};
  uint64_t number_ = 0;
  void (*call_)(const void*, int) = nullptr;
  const void* job_ = nullptr;
  int num_tasks_ = 0;
  std::exception_ptr thrown_;  // by a task of the job; guarded by the mutex until all tasks have ended
  alignas(64) std::atomic<int> num_done_{0};
  alignas(64) std::atomic<int> num_asleep_{0};
  std::atomic<bool> ends_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> helpers_;
};
