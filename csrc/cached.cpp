// Owns: the ops on the KV cache: rope + write, attention, moves of token slots; every index is checked before a kernel sees it.
#include <cstring>
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

}  // namespace

void rope_write(const RopeWrite& a, i64 max_len) {
    within("rope_write", "positions", a.positions, a.rows, max_len);
    within("rope_write", "slots", a.slots, a.rows, a.cache.pages * a.cache.page_size);
    const Kernels& kernels = active();
    const double cost = 2. * static_cast<double>((a.heads + 2 * a.cache.kv_heads) * a.cache.head_dim);
    over_rows(a.rows, cost, [&](i64 from, i64 to) { kernels.rope_write(a, from, to); });
}

void attention(const Attention& a, i64 requests, i64 tails) {
    const Cache& c = a.cache;
    if (c.head_dim < 1 || c.head_dim > MAX_HEAD)
        refuse("attention: head_dim=" + std::to_string(c.head_dim) + " must be between 1 and " + std::to_string(MAX_HEAD));
    if (a.heads % c.kv_heads)
        refuse("attention: " + std::to_string(a.heads) + " heads cannot share " + std::to_string(c.kv_heads) + " kv heads");
    if (a.rows && (a.tail_start[0] < 0 || a.tail_start[a.rows] > tails))
        outside("attention", "tail_start", a.rows, a.tail_start[a.rows], tails + 1);
    within("attention", "tail_slots", a.tail_slots, tails, c.pages * c.page_size);
    double work = 0;
    for (i64 r = 0; r < a.rows; ++r) {
        check_row(a, r, requests);
        work += 2. * static_cast<double>((a.positions[r] + 1) * a.heads * c.head_dim);
    }
    const Kernels& kernels = active();
    const i64 pairs = a.rows * c.kv_heads;
    auto attend = [&](i64 p) { kernels.attention(a, p % a.rows, p / a.rows); };  // rows of one kv head in turn: they share its keys
    if (work < SMALL) {
        for (i64 p = 0; p < pairs; ++p) attend(p);
    } else {
        parallel(pairs, attend);
    }
}

void move(char* pool, i64 layers, i64 pages, i64 kv_heads, i64 page_size, i64 bytes, const int32_t* source, const int32_t* target, i64 n) {
    within("move", "source", source, n, pages * page_size);
    within("move", "target", target, n, pages * page_size);
    const i64 plane = pages * kv_heads * page_size * bytes;
    const auto place = [&](i64 slot, i64 head) { return ((slot / page_size * kv_heads + head) * page_size + slot % page_size) * bytes; };
    for (i64 layer = 0; layer < layers * 2; ++layer)  // keys and values
        for (i64 i = 0; i < n; ++i)
            for (i64 h = 0; h < kv_heads; ++h)
                std::memmove(pool + layer * plane + place(target[i], h), pool + layer * plane + place(source[i], h), bytes);
}

}  // namespace slip
