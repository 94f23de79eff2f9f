// Owns: which experts a row goes to, and the sum of what they make of it; gates of a few numbers. Must not know how an expert computes:
// it is a tape. Experts come one after the other in ascending order, and only those that some row goes to.
#include "experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "split.h"

namespace slip {
namespace {

constexpr double LOG2E = 1.4426950408889634, LN2 = 0.6931471805599453;

float exp_of(float x) {  // ops/reference/arithmetic.py, exp: to half an ulp
    if (x < -87.3f) return 0.f;
    const double wide = x < 200.f ? x : x > 200.f ? 200. : x;
    const double n = std::nearbyint(wide * LOG2E), r = wide - n * LN2;
    double p = 1. / 40320;
    for (const double c : {1. / 5040, 1. / 720, 1. / 120, 1. / 24, 1. / 6, 1. / 2, 1., 1.}) p = p * r + c;
    if (n != n) return x;
    const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
    double power;
    std::memcpy(&power, &bits, 8);
    return static_cast<float>(p * power);
}
float sigmoid(float x) { return 1.f / (1.f + exp_of(-x)); }

float total(const float* x, i64 n) { return static_cast<float>(std::accumulate(x, x + n, 0.)); }

// Places of the greatest values first; of equal ones the lower place, and not a number before all others.
void order(const float* value, i64 n, std::vector<i64>& places) {
    places.resize(n);
    std::iota(places.begin(), places.end(), 0);
    std::stable_sort(places.begin(), places.end(), [&](i64 a, i64 b) { return value[a] > value[b] || (value[a] != value[a] && value[b] == value[b]); });
}

void scores_of(const float* logits, const Router& r, float* scores) {
    if (r.sigmoid) {
        for (i64 e = 0; e < r.experts; ++e) scores[e] = sigmoid(logits[e]);
        return;
    }
    const float top = *std::max_element(logits, logits + r.experts);
    for (i64 e = 0; e < r.experts; ++e) scores[e] = exp_of(logits[e] - top);
    const float sum = total(scores, r.experts);
    for (i64 e = 0; e < r.experts; ++e) scores[e] /= sum;
}

// Leaves the choice of the best groups, sets the others to -inf.
void keep_groups(const Router& r, std::vector<float>& choice) {
    const i64 size = r.experts / r.groups;
    std::vector<float> worth(r.groups), best(r.best);
    std::vector<i64> places;
    for (i64 g = 0; g < r.groups; ++g) {
        order(&choice[g * size], size, places);
        for (i64 i = 0; i < r.best; ++i) best[i] = choice[g * size + places[i]];
        worth[g] = total(best.data(), r.best);
    }
    order(worth.data(), r.groups, places);
    for (i64 i = r.kept; i < r.groups; ++i) std::fill_n(choice.begin() + places[i] * size, size, -INFINITY);
}

void route_row(const float* logits, const Router& r, int32_t* numbers, float* shares) {
    std::vector<float> scores(r.experts);
    scores_of(logits, r, scores.data());
    std::vector<float> choice = scores;
    for (i64 e = 0; r.correction && e < r.experts; ++e) choice[e] += r.correction[e];
    if (r.groups > 1) keep_groups(r, choice);
    std::vector<i64> places;
    order(choice.data(), r.experts, places);
    for (i64 i = 0; i < r.chosen; ++i) numbers[i] = static_cast<int32_t>(places[i]);
    std::sort(numbers, numbers + r.chosen);
    for (i64 i = 0; i < r.chosen; ++i) shares[i] = scores[numbers[i]];
    const float sum = r.normed ? total(shares, r.chosen) + 1e-20f : 1.f;
    for (i64 i = 0; i < r.chosen; ++i) shares[i] = shares[i] / sum * r.scale;
}

}  // namespace

void route(const float* logits, const Router& r, int32_t* numbers, float* shares, i64 rows) {
    if (r.chosen > r.experts || r.groups < 1 || r.experts % r.groups || r.kept > r.groups || r.best > r.experts / r.groups)
        refuse("route: " + std::to_string(r.chosen) + " of " + std::to_string(r.experts) + " experts in " + std::to_string(r.groups) +
               " groups, " + std::to_string(r.kept) + " kept by their best " + std::to_string(r.best) + ": these do not fit together");
    over_rows(rows, 30. * static_cast<double>(r.experts), [&](i64 from, i64 to) {
        for (i64 row = from; row < to; ++row)
            route_row(logits + row * r.experts, r, numbers + row * r.chosen, shares + row * r.chosen);
    });
}

void routed(const Routed& a, const std::vector<Tape>& experts, i64 rows) {
    within("routed", "experts", a.numbers, rows * a.chosen, static_cast<i64>(experts.size()));
    std::memset(a.out, 0, rows * a.hidden * sizeof(float));
    std::vector<std::vector<i64>> places(experts.size());  // row * chosen + which of its experts
    for (i64 i = 0; i < rows * a.chosen; ++i) places[a.numbers[i]].push_back(i);
    for (size_t e = 0; e < experts.size(); ++e) {
        const std::vector<i64>& mine = places[e];
        const i64 count = static_cast<i64>(mine.size());
        if (!count) continue;
        const double cost = static_cast<double>(a.hidden);
        over_rows(count, cost, [&](i64 from, i64 to) {
            for (i64 i = from; i < to; ++i)
                std::memcpy(a.gathered + i * a.hidden, a.x + mine[i] / a.chosen * a.hidden, a.hidden * sizeof(float));
        });
        experts[e].run({count});
        over_rows(count, cost, [&](i64 from, i64 to) {  // a row goes to an expert once, so no two threads write one row
            for (i64 i = from; i < to; ++i) {
                float* out = a.out + mine[i] / a.chosen * a.hidden;
                const float *part = a.part + i * a.hidden, share = a.shares[mine[i]];
                for (i64 c = 0; c < a.hidden; ++c) out[c] += part[c] * share;
            }
        });
    }
}

void gated_clamped(const float* gate_up, float* out, float limit, float slope, i64 rows, i64 width) {
    over_rows(rows, 20. * static_cast<double>(width), [&](i64 from, i64 to) {
        for (i64 r = from; r < to; ++r)
            for (i64 c = 0; c < width; ++c) {
                const float g = gate_up[2 * r * width + c], u = gate_up[(2 * r + 1) * width + c];
                const float gate = g > limit ? limit : g, up = u > limit ? limit : u < -limit ? -limit : u;
                out[r * width + c] = gate * sigmoid(gate * slope) * (up + 1.f);
            }
    });
}

void gate_rows(float* x, const float* gate, i64 rows, i64 width) {
    over_rows(rows, static_cast<double>(width), [&](i64 from, i64 to) {
        for (i64 r = from; r < to; ++r) {
            const float factor = sigmoid(gate[r]);
            for (i64 c = 0; c < width; ++c) x[r * width + c] *= factor;
        }
    });
}

}  // namespace slip
