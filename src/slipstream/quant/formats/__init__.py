"""Weight formats of linear layers, one file each. Every one has

    NAME                    its name, also the file's
    unpack(stored)          -> fp32 [n, k], exactly the weights that the stored tensors mean

A format that weights can be converted to (`--quant`) has besides
    OP                      the linear kernel that runs it (`Kernels.linear`, ops/types.py LINEAR_FORMATS)
    quantise(weight)        [n, k] in any float type -> stored tensors, what the kernel packs
    bytes(n, k)             bytes of the stored tensors

One that checkpoints are in has, if a kernel can run it without changing a weight (others are unpacked at load),
    OP, lay_out(stored)     the kernel; what the checkpoint stores -> what the kernel packs

and, to be recognised, one of
    GGUF                    names of the ggml types it is; its stored tensor is "blocks" u8 [n, bytes of a row]
    METHODS, recognise(quantization_config) -> Scheme | None
                            see quant/scheme.py; a config of its own kind that cannot be read is refused there by name
"""
