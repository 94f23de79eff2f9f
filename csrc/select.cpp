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
constexpr int BINS = 512;
constexpr float BINS_PER_UNIT = 16.f;
int bin(float below) {
    const float at = below * BINS_PER_UNIT;
    return at < BINS - 1 ? static_cast<int>(at) : BINS - 1;
}

struct Census {
    i64 count[BINS] = {}, kept = 0;
    double mass[BINS] = {}, total = 0;  // total: summed in the order of ids
};

Census take_census(const float* z, const float* e, i64 n, float top) {
    Census c;
    for (i64 id = 0; id < n; ++id) {
        if (z[id] == -INFINITY) continue;
        const int at = bin(top - z[id]);
        ++c.count[at];
        ++c.kept;
        if (!e) continue;
        c.mass[at] += e[id];
        c.total += e[id];
    }
    return c;
}

}  // namespace

void keep_top(float* z, const float* e, i64 n, float top, i64 top_k, float top_p) {
    static thread_local std::vector<uint64_t> keys;
    const bool by_mass = top_p < 1.f;
    const Census census = take_census(z, by_mass ? e : nullptr, n, top);
    const bool by_count = top_k > 0 && top_k < census.kept;
    if (!by_count && !by_mass) return;
    const double enough = top_p * census.total * (1 + 1e-9);  // bins are summed in another order than the ids
    int last = 0;
    double mass = census.mass[0];
    for (i64 count = census.count[0]; last < BINS - 1 && (by_count ? count < top_k : mass < enough);
         count += census.count[last], mass += census.mass[last])
        ++last;
    keys.clear();
    for (i64 id = 0; id < n; ++id) {
        if (z[id] == -INFINITY) continue;
        if (bin(top - z[id]) <= last) keys.push_back(key(z[id], id));
        else z[id] = -INFINITY;
    }
    if (by_count) {
        std::nth_element(keys.begin(), keys.begin() + top_k, keys.end());
        drop(z, keys.data() + top_k, keys.data() + keys.size());
        keys.resize(top_k);
    }
    if (!by_mass) return;
    double total = by_count ? 0 : census.total;
    for (i64 id = 0; by_count && id < n; ++id)
        if (z[id] > -INFINITY) total += e[id];
    const i64 kept = reach(keys, e, static_cast<double>(top_p) * total);
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
