// The threads of the compiled operators: one pool a process, in the form that oneDNN asks for.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>

namespace dnnl {
namespace threadpool_interop {
// As in oneDNN 3.10: the order of the virtual functions is the interface. The library calls it; neither side asks for its type.
struct threadpool_iface {
  virtual int get_num_threads() const = 0;
  virtual bool get_in_parallel() const = 0;
  virtual void parallel_for(int n, const std::function<void(int, int)> &body) = 0;
  virtual uint64_t get_flags() const = 0;
  virtual void wait() = 0;  // not in every release; the library never destroys a pool, so the entry after it is unused
  virtual ~threadpool_iface() = default;
};
}  // namespace threadpool_interop
}  // namespace dnnl

// The caller works too and takes whatever nobody has begun, so a worker that is asleep or not scheduled delays nothing.
// Which thread takes a part has no influence on the result, but how many parts there are has, where sums are divided
// among them: so oneDNN is told a number of its own, not that of threads.
class Pool final : public dnnl::threadpool_interop::threadpool_iface {
 public:
  Pool(int threads, int parts) : parts_(parts) {
    try {
      for (; threads_ < threads; ++threads_) std::thread([this] { work(); }).detach();  // the pool lives as long as the process
    } catch (const std::system_error &) {  // the machine gives no more: whoever calls does the rest
    }
  }
  void lose_workers() { threads_ = 1; }  // in a forked process, which has none of them
  int threads() const { return threads_; }
  int get_num_threads() const override { return parts_; }
  bool get_in_parallel() const override { return inside_; }
  uint64_t get_flags() const override { return 0; }  // parallel_for returns when all is done
  void wait() override {}

  void parallel_for(int n, const std::function<void(int, int)> &body) override {
    if (n <= 1 || n > kMost || threads_ == 1 || inside_) {
      for (int i = 0; i < n; ++i) body(i, n);
      return;
    }
    body_ = &body;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t turn = (state_.load(std::memory_order_relaxed) >> 32) + 1;
    state_.store(turn << 32 | uint64_t(n) << 16);
    if (sleeping_.load() > 0) {
      { std::lock_guard<std::mutex> guard(mutex_); }
      wake_.notify_all();
    }
    while (take()) {}
    for (int spins = 0; done_.load(std::memory_order_acquire) < n; ++spins) pause(spins);
  }

 private:
  static constexpr int kMost = 0xffff;
  static constexpr int kSpins = 2000;  // some 30 microseconds: longer would take the processor from MindSpore's threads

  static void pause(int spins) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
    if (spins % 256 == 255) sched_yield();
  }
  static bool open(uint64_t state) { return (state & kMost) < (state >> 16 & kMost); }

  // Do one part of the present call, if one is left. While a part is out, the call that body_ belongs to cannot end.
  bool take() {
    uint64_t state = state_.load(std::memory_order_acquire);
    while (open(state)) {
      if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
      inside_ = true;
      (*body_)(int(state & kMost), int(state >> 16 & kMost));
      inside_ = false;
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
    return false;
  }

  void work() {
    for (;;) {
      for (int spins = 0; spins < kSpins; ++spins) {
        if (take()) spins = 0;
        pause(spins);
      }
      std::unique_lock<std::mutex> guard(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(guard, [this] { return open(state_.load()); });
      sleeping_.fetch_sub(1);
    }
  }

  int threads_ = 1;  // the caller's, and those that could be made
  const int parts_;
  const std::function<void(int, int)> *body_ = nullptr;
  std::atomic<uint64_t> state_{0};  // number of the call, number of parts, next part: 32 + 16 + 16 bits
  std::atomic<int> done_{0}, sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  static inline thread_local bool inside_ = false;
};

inline Pool *pool = nullptr;   // made by mslt_open
inline std::mutex pool_turn;  // one operator at a time: it has all threads

// A fork waits until nobody has the turn, or the child would find it taken for ever.
inline void stand_forks() {
  pthread_atfork([] { pool_turn.lock(); }, [] { pool_turn.unlock(); },
                 [] {
                   pool->lose_workers();
                   pool_turn.unlock();
                 });
}
