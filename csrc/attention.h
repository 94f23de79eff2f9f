// Owns: attention of a piece (rows of one request, one kv head, some segments) over paged keys: scores, softmax, mixed values, and the
// merging of segments from left to right (docs/numerics.md, section 3). A pair is a row and a head; all pairs of a piece share the
// reading of keys and values. Rule: a score and a mixed value are each one chain of FMAs; tiles only choose how many run side by side.
#pragma once
#include "scalar_math.h"
#include "tiles.h"

namespace slip {
namespace SLIP_ISA {

constexpr float NOTHING = -INFINITY;

struct Part {  // softmax state: largest score, sum of weights, weighted values
    float top, total;
    float* values;
};

static void blank(float* scores, i64 first, i64 count, i64 padded) {
    for (i64 j = 0; j < first; ++j) scores[j] = NOTHING;
    for (i64 j = first + count; j < padded; ++j) scores[j] = NOTHING;
}

// Turns `count` scores into weights relative to the largest. `scores` is on lane 0; the first score is at `first` < 16.
static void soften(float* scores, i64 first, i64 count, float cap, Part& part) {
    const i64 padded = (first + count + LANES - 1) / LANES * LANES;
    blank(scores, first, count, padded);
    if (cap > 0) {
        for (i64 i = 0; i < padded; i += LANES) store(scores + i, mul(set1(cap), tanh(div(load(scores + i), set1(cap)))));
        blank(scores, first, count, padded);  // tanh made them finite
    }
    Vec best = set1(NOTHING);
    for (i64 i = 0; i < padded; i += LANES) best = max(load(scores + i), best);
    part.top = biggest(best);
    Vec total = zero();
    for (i64 i = 0; i < padded; i += LANES) {
        const Vec e = exp(sub(load(scores + i), set1(part.top)));
        store(scores + i, e);
        total = add(total, e);
    }
    part.total = sum(total);
}

static void merge(Part& all, const Part& part, i64 d) {
    const float top = part.top > all.top ? part.top : all.top;
    const float a = exp(all.top - top), b = exp(part.top - top);
    all.total = std::fma(all.total, a, part.total * b);
    for (i64 i = 0; i < d; i += LANES) {
        const Vec v = fma(load_up_to(all.values + i, d - i), set1(a), mul(load_up_to(part.values + i, d - i), set1(b)));
        store_up_to(all.values + i, v, d - i);
    }
    all.top = top;
}

// After the last segment: the sink, a part of one key with this score and a value of zeros; then the division.
static void finish(const Attention& a, i64 head, Part& all) {
    const i64 d = a.cache.head_dim;
    if (a.sinks) {
        float zeros[MAX_HEAD] = {};
        merge(all, Part{a.sinks[head], 1.f, zeros}, d);
    }
    for (i64 i = 0; i < d; i += LANES)
        store_up_to(all.values + i, div(load_up_to(all.values + i, d - i), set1(all.total)), d - i);
}

static inline float* part_slot(const Attention& a, i64 row, i64 head, i64 segment) {
    return a.parts + ((row * a.heads + head) * a.segments + segment) * (2 + a.cache.head_dim);
}

struct Stretch {  // keys from..to-1 that `pairs` pairs from `pair` on find at the same places; `offset` is readable FETCH further
    i64 pair, pairs, from, to;
    const i64* offset;
};

// One piece, for `heads` neighbouring heads from `head` on. Keys are numbered by position within the segment at hand.
template <class T>
class Desk {
 public:
    Desk(const Attention& a, const Piece& piece, i64 head, i64 heads, float* memory)
        : a_(a), piece_(piece), head_(head), heads_(heads), pairs_(piece.rows * heads), d_(a.cache.head_dim),
          padded_((d_ + LANES - 1) / LANES * LANES), q_(memory), scores_(q_ + PAIRS * QUERY), turned_(scores_ + PAIRS * SCORES),
          widened_(turned_ + KEYS * turned(d_)), mixed_(widened_ + VALUES * COLUMNS) {
        for (i64 r = 1; r < piece.rows; ++r)
            if (a.linear[piece.row + r] > a.linear[piece.row + finder_]) finder_ = r;
    }

    void run() {
        for (i64 p = 0; p < pairs_; ++p) {
            const float* q = a_.qkv + row_of(p) * a_.width + head_of(p) * d_;
            for (i64 i = 0; i < d_; i += LANES) store(q_ + p * QUERY + i, mul(load_up_to(q + i, d_ - i), set1(a_.scale)));
        }
        for (i64 s = piece_.first; s < piece_.last; ++s) segment(s);
        if (a_.parts) return;
        for (i64 p = 0; p < pairs_; ++p) finish(a_, head_of(p), all_[p]);
    }

 private:
    static constexpr bool SCALED = std::is_same<T, int8_t>::value;

    i64 row_of(i64 pair) const { return piece_.row + pair / heads_; }
    i64 head_of(i64 pair) const { return head_ + pair % heads_; }

    void segment(i64 s) {
        start_ = s * SEGMENT;
        const auto within = [this](i64 j) { return j < start_ ? 0 : j - start_ < SEGMENT ? j - start_ : SEGMENT; };
        i64 low = SEGMENT, high = 0;
        alike_ = SEGMENT;
        for (i64 r = 0; r < piece_.rows; ++r) {
            const i64 row = piece_.row + r, keys = a_.positions[row] + i64{1}, linear = a_.linear[row];
            const i64 first = within(first_key(a_, row)), last = within(keys);
            for (i64 p = r * heads_; p < (r + 1) * heads_; ++p) low_[p] = first, high_[p] = last;
            if (first < low) low = first;
            if (last > high) high = last;
            if (linear < keys && within(linear) < alike_) alike_ = within(linear);
        }
        if (low >= high) return;
        const Stretch common{0, pairs_, low, alike_ < high ? alike_ : high, common_};
        if (common.from < common.to) find(finder_, common, common_);
        each_stretch(common, [this](const Stretch& x) { score_keys(x); });
        for (i64 p = 0; p < pairs_; ++p) {
            const i64 first = low_[p] % LANES;
            if (low_[p] < high_[p]) soften(scores_ + p * SCORES + low_[p] - first, first, high_[p] - low_[p], a_.cap, part_[p]);
        }
        std::memset(mixed_, 0, pairs_ * padded_ * sizeof(float));
        each_stretch(common, [this](const Stretch& x) { mix_values(x); });
        for (i64 p = 0; p < pairs_; ++p)
            if (low_[p] < high_[p]) keep(p, s);
    }

    // First what all rows share, then what each has for itself: ascending for every row.
    template <class F>
    void each_stretch(const Stretch& common, F f) {
        if (common.from < common.to) f(common);
        for (i64 r = 0; r < piece_.rows; ++r) {
            const i64 p = r * heads_;
            const Stretch own{p, heads_, alike_ > low_[p] ? alike_ : low_[p], high_[p], own_};
            if (own.from >= own.to) continue;
            find(r, own, own_);
            f(own);
        }
    }

    void find(i64 r, const Stretch& x, i64* offset) {
        const i64 row = piece_.row + r, known = a_.positions[row] + 1 - start_, last = x.to + FETCH < known ? x.to + FETCH : known;
        find_keys(a_, row, piece_.kv_head, start_ + x.from, start_ + last, offset + x.from);
        for (i64 j = last; j < x.to + FETCH; ++j) offset[j] = offset[x.from];
    }

    bool seen(i64 pair, i64 pairs, i64 from, i64 to) const {  // does any of the pairs see one of these keys
        for (i64 p = pair; p < pair + pairs; ++p)
            if (low_[p] < to && high_[p] > from) return true;
        return false;
    }

    void score_keys(const Stretch& x) {
        if (x.pairs <= TILE && d_ % (TURN * PER_WORD<T>) == 0) return score_few(x);
        const i64 tiles = (x.pairs + TILE - 1) / TILE;
        const char* keys[KEYS];
        for (i64 j = x.from; j < x.to; j += KEYS) {
            const Next next = next_of(x, j);
            const bool both = x.to - j > LANES;
            for (i64 i = 0; i < (both ? KEYS : LANES); i += 8) {
                place_keys(x, j, i, i + 8, keys);
                fetch(next.cache, next.offset, i, i + 8, a_.cache.stride);
                turn<T>(keys + i, d_, turned_ + i);
            }
            for (i64 t = 0; t < tiles; ++t) {
                const i64 p = x.pair + x.pairs * t / tiles, count = x.pair + x.pairs * (t + 1) / tiles - p;
                if (seen(p, count, j, j + KEYS)) score_tile(p, count, both, j);
            }
        }
    }

    // One tile: what is turned for it is used once, so it is not kept.
    void score_few(const Stretch& x) {
        const char* keys[KEYS];
        with_count(x.pairs, [&](auto r) {
            constexpr int R = r, B = 2 * R <= HELD ? 2 : 1;
            for (i64 j = x.from; j < x.to; j += B * LANES) {
                const Next next = next_of(x, j);
                place_keys(x, j, 0, B * LANES, keys);
                const auto coming = [&](i64 c) __attribute__((always_inline)) {  // see fetch
                    const i64 end = c + TURN * PER_WORD<T>;
                    fetch(next.cache, next.offset, B * LANES * c / d_, B * LANES * end / d_, a_.cache.stride);
                };
                const float *q = q_ + x.pair * QUERY, *scale = SCALED ? scale_ : nullptr;
                score_lying<T, R, B>(q, keys, scale, d_, scores_ + x.pair * SCORES + j, coming);
            }
        });
    }

    struct Next {
        const char* cache;
        const i64* offset;
    };
    Next next_of(const Stretch& x, i64 j) const {  // what is read FETCH keys after key j: further keys, then the first values
        const i64 next = j + FETCH, past = next - x.to < KEYS ? next - x.to : KEYS;
        return {static_cast<const char*>(past < 0 ? a_.cache.keys : a_.cache.values), x.offset + (past < 0 ? next : x.from + past)};
    }

    void place_keys(const Stretch& x, i64 j, i64 from, i64 to, const char** keys) {
        for (i64 i = from; i < to; ++i) {
            keys[i] = static_cast<const char*>(a_.cache.keys) + x.offset[j + i];
            if constexpr (SCALED) std::memcpy(scale_ + i, keys[i] + d_, sizeof(float));
        }
    }

    void score_tile(i64 p, i64 count, bool both, i64 j) {
        const float *q = q_ + p * QUERY, *scale = SCALED ? scale_ : nullptr;
        float* scores = scores_ + p * SCORES + j;
        with_count(count, [&](auto r) {
            constexpr int R = r;
            if constexpr (2 * R <= HELD) {
                if (both) return score<R, 2>(q, turned_, scale, d_, scores);
            }
            score<R, 1>(q, turned_, scale, d_, scores);
            if (both) score<R, 1>(q, turned_ + LANES, SCALED ? scale + LANES : nullptr, d_, scores + LANES);
        });
    }

    // Weights times the scales of their values.
    void scale_weights(const Stretch& x) {
        const char* values = static_cast<const char*>(a_.cache.values) + d_;
        for (i64 j = x.from; j < x.to; ++j) std::memcpy(scale_ + j, values + x.offset[j], sizeof(float));
        for (i64 p = x.pair; p < x.pair + x.pairs; ++p) {
            const i64 end = high_[p] < x.to ? high_[p] : x.to;
            float* weights = scores_ + p * SCORES;
            for (i64 j = low_[p] > x.from ? low_[p] : x.from; j < end; j += LANES)
                store_up_to(weights + j, mul(load_up_to(weights + j, end - j), load_up_to(scale_ + j, end - j)), end - j);
        }
    }

    void mix_values(const Stretch& x) {
        if constexpr (SCALED) scale_weights(x);
        const i64 tiles = (x.pairs + TILE - 1) / TILE, step = tiles == 1 ? FETCH : VALUES;
        const char *keys = static_cast<const char*>(a_.cache.keys), *values = static_cast<const char*>(a_.cache.values);
        for (i64 j = x.from; j < x.to; j += step) {
            const i64 end = j + step < x.to ? j + step : x.to;
            for (i64 c = 0; c < padded_; c += COLUMNS) {
                if (tiles == 1 && d_ % LANES == 0) {
                    Cached<T> cached;
                    cached.values = values + c * static_cast<i64>(sizeof(T)), cached.ahead = end < x.to ? values : keys;
                    cached.offset = x.offset, cached.fetched = x.offset + j + FETCH;
                    cached.first = j, cached.count = end - j, cached.bytes = a_.cache.stride;
                    cached.pass = c / LANES, cached.passes = padded_ / LANES;
                    mix_tile(x.pair, x.pairs, cached, j, end, c);
                    continue;
                }
                for (i64 i = j; i < end; ++i) {
                    const T* value = reinterpret_cast<const T*>(values + x.offset[i]);
                    __builtin_prefetch(values + x.offset[i + FETCH] + c * static_cast<i64>(sizeof(T)));
                    for (i64 l = c; l < c + COLUMNS && l < padded_; l += LANES)
                        store(widened_ + (i - j) * COLUMNS + l - c, load_up_to(value + l, d_ - l));
                }
                for (i64 t = 0; t < tiles; ++t) {
                    const i64 p = x.pair + x.pairs * t / tiles;
                    mix_tile(p, x.pair + x.pairs * (t + 1) / tiles - p, Widened{widened_, j}, j, end, c);
                }
            }
        }
    }

    template <class Values>
    void mix_tile(i64 p, i64 count, const Values& values, i64 from, i64 to, i64 column) {
        with_count(count, [&](auto r) {
            constexpr int R = r, V = 2 * R <= HELD ? 2 : 1;
            if (V == 2 && column + COLUMNS <= padded_) return mix_rows<R, V>(p, values, from, to, column);
            mix_rows<R, 1>(p, values, from, to, column);
            if (column + LANES < padded_) mix_rows<R, 1>(p, values.next(), from, to, column + LANES);
        });
    }

    // What all pairs of the tile see together; before and after it, what each sees alone.
    template <int R, int V, class Values>
    void mix_rows(i64 p, const Values& values, i64 from, i64 to, i64 column) {
        const float* weights = scores_ + p * SCORES;
        float* mixed = mixed_ + p * padded_ + column;
        i64 low = from, high = to;
        for (i64 i = p; i < p + R; ++i) {
            if (low_[i] > low) low = low_[i];
            if (high_[i] < high) high = high_[i];
        }
        if (low >= high) low = high = to;
        const auto alone = [&](i64 begin, i64 end) {
            for (i64 i = 0; i < R; ++i) {
                const i64 first = begin > low_[p + i] ? begin : low_[p + i], last = end < high_[p + i] ? end : high_[p + i];
                if (first < last) mix<1, V>(weights + i * SCORES, values, first, last, mixed + i * padded_, padded_);
            }
        };
        if (from < low) alone(from, low);
        if (low < high) mix<R, V>(weights, values, low, high, mixed, padded_);
        if (high < to) alone(high, to);
    }

    void keep(i64 p, i64 s) {
        Part& part = part_[p];
        part.values = mixed_ + p * padded_;
        if (a_.parts) {
            float* slot = part_slot(a_, row_of(p), head_of(p), s);
            slot[0] = part.top;
            slot[1] = part.total;
            std::memcpy(slot + 2, part.values, d_ * sizeof(float));
        } else if (s == first_key(a_, row_of(p)) / SEGMENT) {
            all_[p] = Part{part.top, part.total, a_.out + (row_of(p) * a_.heads + head_of(p)) * d_};
            std::memcpy(all_[p].values, part.values, d_ * sizeof(float));
        } else {
            merge(all_[p], part, d_);
        }
    }

    const Attention& a_;
    const Piece& piece_;
    const i64 head_, heads_, pairs_, d_, padded_;
    float *const q_, *const scores_, *const turned_, *const widened_, *const mixed_;
    i64 finder_ = 0;                  // the row that finds most keys through its pages
    i64 start_ = 0, alike_ = 0;       // of the segment at hand; below `alike_` all rows find a key at the same place
    i64 low_[PAIRS], high_[PAIRS];    // what each pair sees of it
    i64 common_[SEGMENT + FETCH], own_[SEGMENT + FETCH];
    float scale_[SCALED ? SEGMENT : 1];  // of keys being scored, then of the values of a stretch
    Part all_[PAIRS], part_[PAIRS];
};

template <class T>
static void attend(const Attention& a, const Piece& piece, float* memory) {
    const i64 group = a.heads / a.cache.kv_heads;
    for (i64 g = 0; g < group; g += PAIRS)
        Desk<T>(a, piece, piece.kv_head * group + g, group - g < PAIRS ? group - g : PAIRS, memory).run();
}

static i64 attention_memory(i64 head_dim) {
    return PAIRS * (QUERY + SCORES + (head_dim + LANES - 1) / LANES * LANES) + KEYS * turned(head_dim) + VALUES * COLUMNS;
}

static void attention(const Attention& a, const Piece& piece, float* memory) {
    if (a.cache.kind == Kv::int8) attend<int8_t>(a, piece, memory);
    else if (a.cache.kind == Kv::bf16) attend<uint16_t>(a, piece, memory);
    else attend<float>(a, piece, memory);
}

static void attention_merge(const Attention& a, i64 row) {
    const i64 d = a.cache.head_dim;
    for (i64 h = 0; h < a.heads; ++h) {
        Part all{0.f, 0.f, a.out + (row * a.heads + h) * d};
        const i64 first = first_key(a, row) / SEGMENT;
        for (i64 s = first; s <= a.positions[row] / SEGMENT; ++s) {
            float* slot = part_slot(a, row, h, s);
            if (s > first) {
                merge(all, Part{slot[0], slot[1], slot + 2}, d);
                continue;
            }
            all.top = slot[0], all.total = slot[1];
            std::memcpy(all.values, slot + 2, d * sizeof(float));
        }
        finish(a, h, all);
    }
}

}  // namespace SLIP_ISA
}  // namespace slip
