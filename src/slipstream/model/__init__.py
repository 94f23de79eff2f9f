"""Floor 5: the decoder. Owns how a ModelSpec is computed on the rows of a step.

    load_model   a folder or "dummy:<shape>" -> Decoder
    Decoder      rows -> hidden states -> logits
    Batch        the rows of one step, as tensors
"""

from slipstream.model.batch import Batch
from slipstream.model.build import load_model
from slipstream.model.decoder import Decoder

__all__ = ["Batch", "Decoder", "load_model"]
