// Owns: which ids top-k, top-p and "the likeliest n" keep. Order: (value descending, id ascending), as one integer key per id.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "drive.h"

namespace slip {
namespace {

uint64_t key(float value, i64 id) {
    const float plain = value + 0.f;  // -0 and +0 are equal
    uint32_t bits;
    std::memcpy(&bits, &plain, 4);
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(~ascending) << 32 | static_cast<uint64_t>(id);
}
i64 id_of(uint64_t k) { return static_cast<i64>(k & 0xffffffffu); }

void drop(float* z, const uint64_t* from, const uint64_t* to) {
    for (; from < to; ++from) z[id_of(*from)] = -INFINITY;
}

// Number of leading keys (sorted as far as needed) whose weights reach `share` of `total`.
i64 reach(std::vector<uint64_t>& keys, const float* e, double goal) {
    const i64 size = static_cast<i64>(keys.size());
    double mass = 0;
    for (i64 done = 0, chunk = 256; done < size; chunk *= 4) {
        const i64 end = std::min(done + chunk, size);
        if (end < size) std::nth_element(keys.begin() + done, keys.begin() + end, keys.end());
        std::sort(keys.begin() + done, keys.begin() + end);
        for (; done < end; ++done) {
            mass += e[id_of(keys[done])];
            if (mass >= goal) return done + 1;
        }
    }
    return size;
}

// Ids are counted by how far they lie below the largest z, in bins, so that only the bins that can matter are sorted.
constexpr int BINS = 2048, GONE = BINS;  // GONE: z is -inf
constexpr float BINS_PER_UNIT = 64.f;
constexpr i64 GROUP = 64;  // ids that are looked at together
constexpr int SIDES = 4;  // neighbouring ids are counted apart: they often share a bin, and would wait for each other

struct Census {
    std::vector<int32_t> bins;  // of each id
    i64 count[BINS], kept;
    double mass[BINS], total;
};

// `e`: weights, null if only numbers count. Masses are summed in any order.
void take_census(const float* z, const float* e, i64 n, float top, Census& c) {
    c.bins.resize(n);
    int32_t* bins = c.bins.data();
    for (i64 id = 0; id < n; ++id) {
        const float below = (top - z[id]) * BINS_PER_UNIT;
        bins[id] = static_cast<int32_t>(below < BINS - 1.f ? below : BINS - 1.f) + (z[id] == -INFINITY);
    }
    int32_t count[SIDES][BINS + 1] = {};
    for (i64 id = 0; id < n; id += SIDES)
        for (int side = 0; side < SIDES; ++side) ++count[side][bins[id + side]];
    double mass[SIDES][BINS + 1] = {};
    for (i64 id = 0; e && id < n; id += SIDES)
        for (int side = 0; side < SIDES; ++side) mass[side][bins[id + side]] += e[id + side];
    c.kept = 0, c.total = 0;
    for (int at = 0; at < BINS; ++at) {
        c.count[at] = 0, c.mass[at] = 0;
        for (int side = 0; side < SIDES; ++side) c.count[at] += count[side][at], c.mass[at] += mass[side][at];
        c.kept += c.count[at];
        c.total += c.mass[at];
    }
}

void collect(const float* z, const Census& c, int first, int last, std::vector<uint64_t>& keys) {
    keys.clear();
    const i64 n = static_cast<i64>(c.bins.size());
    const int32_t* bins = c.bins.data();
    const auto here = [=](i64 id) { return bins[id] >= first && bins[id] <= last; };
    for (i64 at = 0; at < n; at += GROUP) {
        int32_t any = 0;
        for (i64 id = at; id < at + GROUP; ++id) any |= here(id);
        for (i64 id = at; any && id < at + GROUP; ++id)
            if (here(id)) keys.push_back(key(z[id], id));
    }
}
void drop_behind(float* z, const Census& c, int last) {
    const i64 n = static_cast<i64>(c.bins.size());
    const int32_t* bins = c.bins.data();
    for (i64 id = 0; id < n; ++id) z[id] = bins[id] > last ? -INFINITY : z[id];
}

// Top-p where only the bin in which the goal is reached is sorted. False, and nothing done, where the order of additions could matter:
// masses of bins are not summed in the order that counts.
bool keep_mass(float* z, const float* e, const Census& c, float top_p, std::vector<uint64_t>& keys) {
    const double goal = static_cast<double>(top_p) * c.total, slack = c.total * static_cast<double>(c.bins.size()) * 0x1p-52;
    int last = 0;
    double before = 0;
    while (last < BINS - 1 && before + c.mass[last] < goal) before += c.mass[last++];
    if (last == BINS - 1 || before > goal - slack || before + c.mass[last] < goal + slack) return false;
    collect(z, c, last, last, keys);
    std::sort(keys.begin(), keys.end());
    size_t kept = 0;
    double mass = before;
    while (kept < keys.size() && mass < goal - slack) mass += e[id_of(keys[kept++])];
    if (mass < goal + slack) return false;
    drop_behind(z, c, last);
    drop(z, keys.data() + kept, keys.data() + keys.size());
    return true;
}

double mass_of_kept(const float* z, const float* e, i64 n) {  // in the order of ids
    double total = 0;
    for (i64 id = 0; id < n; ++id)
        if (z[id] > -INFINITY) total += e[id];
    return total;
}

}  // namespace

void keep_top(float* z, const float* e, i64 n, float top, i64 top_k, float top_p) {
    static thread_local std::vector<uint64_t> keys;
    static thread_local Census census;
    const bool by_mass = top_p < 1.f;
    take_census(z, by_mass ? e : nullptr, n, top, census);
    const bool by_count = top_k > 0 && top_k < census.kept;
    if (by_count) {
        int last = 0;
        for (i64 count = census.count[0]; count < top_k; count += census.count[last]) ++last;
        collect(z, census, 0, last, keys);
        drop_behind(z, census, last);
        std::nth_element(keys.begin(), keys.begin() + top_k, keys.end());
        drop(z, keys.data() + top_k, keys.data() + keys.size());
        keys.resize(top_k);
    } else if (!by_mass || keep_mass(z, e, census, top_p, keys)) {
        return;
    } else {
        collect(z, census, 0, BINS - 1, keys);
    }
    if (!by_mass) return;
    const i64 kept = reach(keys, e, static_cast<double>(top_p) * mass_of_kept(z, e, n));
    drop(z, keys.data() + kept, keys.data() + keys.size());
}

void likeliest(const float* logits, i64 n, i64 top, int32_t* ids) {
    static thread_local std::vector<uint64_t> best;
    best.clear();
    float worst = -INFINITY;
    for (i64 id = 0; id < n; ++id) {
        const float value = logits[id];
        if (static_cast<i64>(best.size()) == top && !(value > worst)) continue;  // equal ones have a higher id than those at hand
        const uint64_t k = key(value != value ? -INFINITY : std::min(value, 3.40282347e38f), id);
        if (static_cast<i64>(best.size()) == top) {
            if (k > best.back()) continue;
            best.pop_back();
        }
        best.insert(std::upper_bound(best.begin(), best.end(), k), k);
        const float last = logits[id_of(best.back())];
        worst = last != last ? -INFINITY : last;
    }
    for (i64 i = 0; i < top; ++i) ids[i] = static_cast<int32_t>(id_of(best[i]));
}

}  // namespace slip
