"""Floor 3: weight formats. One file per format in `formats`, found by its name.

    computed    names of the formats that weights can be converted to, what `--quant` takes
    readers     the formats of quantised checkpoints, which run as they are or are unpacked at load
"""

from slipstream.quant.catalogue import computed, reader_of_config, reader_of_gguf, readers

__all__ = ["computed", "reader_of_config", "reader_of_gguf", "readers"]
