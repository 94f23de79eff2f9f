"""Feed-forward sub-layers, one file each, named by `FfnSpec.kind`.

A module has
    Ffn(spec, prefix, weights, format, kernels)    spec: its own part of the ModelSpec; prefix: its parameters' names begin so
    Ffn.RECORDS                                    whether `run` only calls kernels, so that a tape can repeat it
    Ffn.reads, Ffn.types                           the type that x may be stored in; buffer -> type, of those only a linear layer reads
    Ffn.run(x, out, scratch)                       x, out [rows, hidden], not the same buffer; scratch has the spec's `buffers()`
    Ffn.fuses(rows)                                whether x and out may be Normings for so many rows; only where that can be
"""
