#include "threads.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace slip {
namespace {

constexpr auto SPIN = std::chrono::microseconds(50);

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

template <class Ready>
bool spin_until(Ready ready) {
    const auto end = std::chrono::steady_clock::now() + SPIN;
    do {
        for (int i = 0; i < 64; ++i) {
            if (ready()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return ready();
}

// Flush-to-zero may be set in a caller's thread (a library built with fast-math does that); kernels always run with denormals.
struct PlainFloats {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    PlainFloats() { _mm_setcsr(0x1f80); }
    ~PlainFloats() { _mm_setcsr(before); }
#endif
};

struct alignas(64) Share {  // a thread's own range of tasks; others take from it when they have finished theirs
    std::atomic<int64_t> next{0};
    int64_t end = 0;
};

class Pool {
 public:
    explicit Pool(int count) : shares_(new Share[count]), count_(count) {
        for (int i = 1; i < count; ++i) workers_.emplace_back([this, i] { serve(i); });
    }
    ~Pool() {
        stop_ = true;
        open_job();
        for (auto& worker : workers_) worker.join();
    }
    int count() const { return count_; }

    void run(int64_t tasks, void (*task)(void*, int64_t), void* context) {
        task_ = task;
        context_ = context;
        for (int i = 0; i < count_; ++i) {
            shares_[i].end = tasks * (i + 1) / count_;
            shares_[i].next = tasks * i / count_;
        }
        open_ = true;
        open_job();
        work(0);
        open_ = false;  // whoever has not entered by now stays out
        if (spin_until([this] { return busy_ == 0; })) return;
        std::unique_lock<std::mutex> lock(mutex_);
        waiting_ = true;
        done_.wait(lock, [this] { return busy_ == 0; });
        waiting_ = false;
    }

 private:
    void open_job() {
        ++job_;
        if (parked_ > 0) {
            std::lock_guard<std::mutex> lock(mutex_);
            begin_.notify_all();
        }
    }

    void work(int self) {
        for (int i = 0; i < count_; ++i) {
            Share& share = shares_[(self + i) % count_];
            for (int64_t t = share.next++; t < share.end; t = share.next++) task_(context_, t);
        }
    }

    void serve(int self) {
        for (uint64_t seen = 0;;) {
            if (!spin_until([&] { return job_ != seen; })) {
                std::unique_lock<std::mutex> lock(mutex_);
                ++parked_;
                begin_.wait(lock, [&] { return job_ != seen; });
                --parked_;
            }
            seen = job_;
            if (stop_) return;
            ++busy_;
            if (open_) work(self);
            if (--busy_ == 0 && waiting_) {
                std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_all();
            }
        }
    }

    std::unique_ptr<Share[]> shares_;
    const int count_;
    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable begin_, done_;
    std::atomic<uint64_t> job_{0};
    std::atomic<int> parked_{0}, busy_{0};
    std::atomic<bool> open_{false}, waiting_{false}, stop_{false};
    void (*task_)(void*, int64_t) = nullptr;
    void* context_ = nullptr;
};

int available_cpus() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    const int count = static_cast<int>(std::thread::hardware_concurrency());
    return count > 0 ? count : 1;
}

// Never destroyed: workers may be parked in it when the process ends. A forked child starts with a new one.
struct State {
    std::mutex region;
    Pool* pool = nullptr;
};
State* state = new State;
std::atomic<int> wanted{0};

int register_fork() {
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, [] { state = new State; });
#endif
    return 0;
}
const int fork_registered = register_fork();

}  // namespace

int threads() {
    int count = wanted;
    if (count == 0) wanted = count = available_cpus();
    return count;
}

void set_threads(int count) {
    std::lock_guard<std::mutex> lock(state->region);
    wanted = count;
    if (state->pool && state->pool->count() != count) {
        delete state->pool;
        state->pool = nullptr;
    }
}

void run_tasks(int64_t tasks, void (*task)(void*, int64_t), void* context) {
    if (tasks <= 0) return;
    PlainFloats plain;
    if (threads() == 1 || tasks == 1) {
        for (int64_t i = 0; i < tasks; ++i) task(context, i);
        return;
    }
    std::lock_guard<std::mutex> lock(state->region);
    if (!state->pool) state->pool = new Pool(threads());
    state->pool->run(tasks, task, context);
}

}  // namespace slip
