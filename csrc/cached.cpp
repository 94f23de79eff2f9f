// Owns: the ops on the KV cache: rope + write, attention, moves of token slots; every index is checked before a kernel sees it.
#include <algorithm>
#include <cstring>
#include <vector>

#include "split.h"

namespace slip {
namespace {

void check_row(const Attention& a, i64 row, i64 requests) {
    const i64 keys = a.positions[row] + i64{1}, linear = a.linear[row], tails = a.tail_start[row + 1] - a.tail_start[row];
    if (a.request[row] < 0 || a.request[row] >= requests) outside("attention", "request", row, a.request[row], requests);
    if (keys < 1 || linear < 0 || tails < 0 || linear + tails != keys)
        refuse("attention: row " + std::to_string(row) + " at position " + std::to_string(keys - 1) + " has linear=" +
               std::to_string(linear) + " and " + std::to_string(tails) + " tail slots; together they must be position + 1");
    const i64 pages = (linear + a.cache.page_size - 1) / a.cache.page_size;
    if (pages > a.max_pages)
        refuse("attention: row " + std::to_string(row) + " needs " + std::to_string(pages) + " pages; page_table holds " +
               std::to_string(a.max_pages));
    within("attention", "page_table", a.page_table + a.request[row] * a.max_pages, pages, a.cache.pages);
}

thread_local Scratch parts;
thread_local std::vector<Piece> tiles, pieces;

// Neighbouring rows of a request share a piece, for each kv head. Where that makes fewer pieces than keep all threads busy, segments
// become pieces of their own, to be merged at the end: a.segments is how many a row may have, or 0.
const std::vector<Piece>& cut(Attention& a) {
    const i64 group = a.heads / a.cache.kv_heads, most = group < PAIRS ? PAIRS / group : 1, wanted = 4 * i64{threads()};
    tiles.clear();
    i64 longest = 0;
    for (i64 row = 0, end; row < a.rows; row = end) {
        for (end = row + 1; end < a.rows && a.request[end] == a.request[row];) ++end;
        const i64 count = (end - row + most - 1) / most;
        for (i64 t = 0; t < count; ++t) {
            const i64 from = row + (end - row) * t / count, to = row + (end - row) * (t + 1) / count;
            i64 first = first_key(a, from), last = 0;
            for (i64 r = from; r < to; ++r) {
                first = std::min(first, first_key(a, r));
                last = std::max<i64>(last, a.positions[r]);
            }
            tiles.push_back({from, to - from, 0, first / SEGMENT, last / SEGMENT + 1});
            longest = std::max(longest, last / SEGMENT + 1);
        }
    }
    const i64 all = static_cast<i64>(tiles.size()) * a.cache.kv_heads, cuts = std::min((wanted + all - 1) / all, longest);
    a.segments = cuts > 1 ? longest : 0;
    pieces.clear();
    for (i64 h = 0; h < a.cache.kv_heads; ++h)  // rows of one kv head in turn: they may share its keys
        for (const Piece& tile : tiles)
            for (i64 i = 0; i < cuts; ++i)
                pieces.push_back({tile.row, tile.rows, h, tile.first + (tile.last - tile.first) * i / cuts,
                                  tile.first + (tile.last - tile.first) * (i + 1) / cuts});
    return pieces;
}

}  // namespace

void rope_write(const RopeWrite& a, i64 max_len) {
    within("rope_write", "positions", a.positions, a.rows, max_len);
    within("rope_write", "slots", a.slots, a.rows, a.cache.pages * a.cache.page_size);
    const Kernels& kernels = active();
    const double cost = 2. * static_cast<double>((a.heads + 2 * a.cache.kv_heads) * a.cache.head_dim);
    over_rows(a.rows, cost, [&](i64 from, i64 to) { kernels.rope_write(a, from, to); });
}

void attention(Attention a, i64 requests, i64 tails) {
    if (a.rows == 0) return;
    const Cache& c = a.cache;
    if (c.head_dim < 1 || c.head_dim > MAX_HEAD)
        refuse("attention: head_dim=" + std::to_string(c.head_dim) + " must be between 1 and " + std::to_string(MAX_HEAD));
    if (a.heads % c.kv_heads)
        refuse("attention: " + std::to_string(a.heads) + " heads cannot share " + std::to_string(c.kv_heads) + " kv heads");
    if (a.tail_start[0] < 0 || a.tail_start[a.rows] > tails)
        outside("attention", "tail_start", a.rows, a.tail_start[a.rows], tails + 1);
    within("attention", "tail_slots", a.tail_slots, tails, c.pages * c.page_size);
    double work = 0;
    for (i64 r = 0; r < a.rows; ++r) {
        check_row(a, r, requests);
        work += 2. * static_cast<double>((a.positions[r] + 1) * a.heads * c.head_dim);
    }
    const Kernels& kernels = active();
    const std::vector<Piece>& pieces = cut(a);
    if (a.segments) a.parts = reinterpret_cast<float*>(parts.take(a.rows * a.heads * a.segments * (2 + c.head_dim) * i64{sizeof(float)}));
    const i64 memory = kernels.attention_memory(c.head_dim) * i64{sizeof(float)};
    const auto attend = [&](i64 p) { kernels.attention(a, pieces[p], reinterpret_cast<float*>(scratch.take(memory))); };
    const i64 count = static_cast<i64>(pieces.size());
    if (work < SMALL) {
        for (i64 p = 0; p < count; ++p) attend(p);
    } else {
        parallel(count, attend);
    }
    if (a.parts) parallel(a.rows, [&](i64 row) { kernels.attention_merge(a, row); });
}

void move(const Cache& cache, i64 planes, i64 plane, const int32_t* source, const int32_t* target, i64 n) {
    within("move", "source", source, n, cache.pages * cache.page_size);
    within("move", "target", target, n, cache.pages * cache.page_size);
    for (i64 p = 0; p < planes; ++p)
        for (i64 i = 0; i < n; ++i)
            for (i64 h = 0; h < cache.kv_heads; ++h) {
                char* at = static_cast<char*>(cache.keys) + p * plane;
                std::memmove(at + cache.place(target[i], h), at + cache.place(source[i], h), cache.stride);
            }
}

}  // namespace slip
