// Owns: what this machine can do: read bandwidth over a working set and peaks of multiply-adds, on threads of its own.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "drive.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace slip {
namespace {

constexpr i64 HUGE = i64{2} << 20;
constexpr i64 LINE_BLOCK = 1024;  // bytes: what the read kernel takes at a time, with room to spare

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int ROUNDS = 32;

// Runs step(thread) -> amount on every thread for `seconds` in all, in rounds that all threads begin together; the amounts per second of
// all threads in the best round. (The question is what the machine can do; neighbours take from it in some rounds.)
template <class Prepare, class Step>
double rate(int threads, double seconds, Prepare prepare, Step step) {
    std::atomic<int> ready{0};
    std::vector<double> rates(static_cast<size_t>(threads) * ROUNDS);
    const auto body = [&](int t) {
        prepare(t);
        for (int round = 0; round < ROUNDS; ++round) {
            ++ready;
            while (ready < threads * (round + 1)) std::this_thread::yield();
            const auto start = Clock::now();
            double amount = 0, spent = 0;
            for (; spent < seconds / ROUNDS; spent = since(start)) amount += step(t);
            rates[round * threads + t] = amount / spent;
        }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(body, t);
    body(0);
    for (auto& other : others) other.join();
    double best = 0;
    for (int round = 0; round < ROUNDS; ++round) {
        double total = 0;
        for (int t = 0; t < threads; ++t) total += rates[round * threads + t];
        best = total > best ? total : best;
    }
    return best;
}

}  // namespace

void advise_huge(void* start, i64 bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t first = (reinterpret_cast<uintptr_t>(start) + HUGE - 1) / HUGE * HUGE,
                    last = (reinterpret_cast<uintptr_t>(start) + bytes) / HUGE * HUGE;
    if (last > first)
        madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only a hint: a refusal costs speed, not correctness
#else
    (void)start, (void)bytes;
#endif
}

double read_bandwidth(i64 bytes, int threads, double seconds) {
    if (threads < 1 || threads > 1024) refuse("read_bandwidth: threads=" + std::to_string(threads) + " must be between 1 and 1024");
    const i64 part = bytes / threads / LINE_BLOCK * LINE_BLOCK;
    if (part < LINE_BLOCK) refuse("read_bandwidth: bytes=" + std::to_string(bytes) + " leaves less than 1 KiB per thread");
    const i64 total = (part * threads + HUGE - 1) / HUGE * HUGE;
    char* memory = static_cast<char*>(std::aligned_alloc(HUGE, total));
    if (!memory) throw std::bad_alloc();
    advise_huge(memory, total);
    const Kernels& kernels = active();
    std::atomic<float> sink{0};
    const double result = rate(
        threads, seconds, [&](int t) { std::memset(memory + t * part, 0, part); },
        [&](int t) {
            sink = kernels.read(reinterpret_cast<const float*>(memory + t * part), part / 4);
            return static_cast<double>(part);
        });
    std::free(memory);
    return result;
}

double peak(int kind, int threads, double seconds) {
    if (kind < 0 || kind > 3) refuse("peak: kind=" + std::to_string(kind) + " must be between 0 and 3");
    if (threads < 1 || threads > 1024) refuse("peak: threads=" + std::to_string(threads) + " must be between 1 and 1024");
    const Kernels& kernels = active();
    return rate(threads, seconds, [](int) {}, [&](int) { return kernels.peak(kind, 4096); });
}

}  // namespace slip
