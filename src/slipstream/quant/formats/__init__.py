"""Weight formats of linear layers, one file each.

A format module has
    NAME                    its name, also the file's
    OP                      the linear kernel that runs it (`Kernels.linear`)
    quantise(weight)        [n, k] in any float type -> stored tensors, what the kernel packs
    unpack(stored)          -> fp32 [n, k], exactly the weights that the kernel multiplies with (the oracle)
    bytes(n, k)             bytes of the stored tensors
"""
