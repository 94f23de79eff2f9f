"""Mixers: sub-layers that move information between positions, one file each, named by `AttentionSpec.kind`.

A module has
    widths(spec)                                      name -> width of the scratch buffers that it needs
    Mixer(spec, prefix, weights, format, kernels)     spec: its own part of the ModelSpec; prefix: its parameters' names begin so
    Mixer.run(x, out, scratch, batch, kv, rope)       x, out [rows, hidden], not the same buffer
"""
