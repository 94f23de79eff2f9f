// Owns: a token, or log-probabilities, from each row of logits.
#include <cmath>
#include "split.h"

namespace slip {
static int32_t sample_row(const Kernels& kernels, const float* logits, i64 vocab, const SampleRows& rows, i64 r) {
    const float temperature = rows.temperature[r], min_p = rows.min_p[r], top_p = rows.top_p[r];
    if (temperature == 0.f) return kernels.argmax(logits, vocab);
    const i64 padded = (vocab + 63) / 64 * 64;
    float *z = reinterpret_cast<float*>(scratch.take(2 * padded * 4)), *e = z + padded;
    const float top = kernels.tempered(logits, vocab, temperature, z, padded);
    if (top == -INFINITY) return 0;
    if (min_p > 0.f || top_p < 1.f) kernels.weights(z, padded, top, e);
    if (min_p > 0.f) kernels.drop_below(e, min_p, z, padded);
    if (rows.top_k[r] > 0 || top_p < 1.f) keep_top(z, e, padded, top, rows.top_k[r], top_p);
    return kernels.noisy_argmax(z, padded, static_cast<uint64_t>(rows.seed[r]), rows.position[r], rows.sample[r]);
}

void sample(const float* logits, i64 rows, i64 vocab, const SampleRows& choices, int32_t* out) {
    if (vocab < 1) refuse("sample: vocab=" + std::to_string(vocab) + " must be at least 1");
    for (i64 r = 0; r < rows; ++r)
        if (!(choices.temperature[r] >= 0.f) || std::isinf(choices.temperature[r]))
            refuse("sample: temperature[" + std::to_string(r) + "] = " + std::to_string(choices.temperature[r]) +
                   " must be a number of at least 0");
    const Kernels& kernels = active();
    over_rows(rows, 4. * static_cast<double>(vocab), [&](i64 from, i64 to) {
        for (i64 r = from; r < to; ++r) out[r] = sample_row(kernels, logits + r * vocab, vocab, choices, r);
    });
}

static float cleaned(float z) { return z != z ? -INFINITY : z > 3.40282347e38f ? 3.40282347e38f : z; }

void logprobs(const float* logits, i64 rows, i64 vocab, const int32_t* tokens, i64 top, float* logprob, int32_t* rank, int32_t* ids,
              float* values) {
    within("logprobs", "tokens", tokens, rows, vocab);
    if (top < 0 || top > vocab)
        refuse("logprobs: top=" + std::to_string(top) + " must be between 0 and the vocabulary's " + std::to_string(vocab));
    const Kernels& kernels = active();
    over_rows(rows, 8. * static_cast<double>(vocab), [&](i64 from, i64 to) {
        for (i64 r = from; r < to; ++r) {
            const float* row = logits + r * vocab;
            float best, log_sum;
            kernels.log_total(row, vocab, &best, &log_sum);
            const auto value = [&](i64 id) { return cleaned(row[id]) == -INFINITY ? -INFINITY : cleaned(row[id]) - best - log_sum; };
            logprob[r] = value(tokens[r]);
            rank[r] = static_cast<int32_t>(1 + kernels.count_better(row, vocab, cleaned(row[tokens[r]]), tokens[r]));
            if (top) likeliest(row, vocab, top, ids + r * top);
            for (i64 i = 0; i < top; ++i) values[r * top + i] = value(ids[r * top + i]);
        }
    });
}

}  // namespace slip
