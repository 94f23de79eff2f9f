"""Mixers: sub-layers that move information between positions, one file each, named by `AttentionSpec.kind`.

A module has
    Mixer(spec, model, prefix, weights, format, kernels)    spec: its own part of `model`; prefix: its parameters' names begin so
    Mixer.RECORDS                                           whether `run` only calls kernels, so that a tape can repeat it
    Mixer.reads                                             the type that x may be stored in; fp32 always may
    Mixer.types                                             buffer -> type, of those that only a linear layer reads
    Mixer.run(x, out, scratch, batch, kv, rope)             x, out [rows, hidden], not the same buffer; scratch has the spec's `buffers()`
    Mixer.fuses(rows)                                       whether x and out may be Normings for so many rows; only where that can be
"""
