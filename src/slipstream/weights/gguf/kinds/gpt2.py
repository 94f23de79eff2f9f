"""GPT-2: its matrices are stored as [outputs, inputs]; q, k and v lie one after the other."""

from slipstream.weights.gguf.kinds.gptneox import NAMES, NOT_WEIGHTS
from slipstream.weights.gguf.kinds.gptneox import fused as place

ARCHITECTURE = "GPT2LMHeadModel"
FIELDS = {
    "embedding_length": "n_embd", "block_count": "n_layer", "feed_forward_length": "n_inner", "attention.head_count": "n_head",
    "context_length": "n_positions", "attention.layer_norm_epsilon": "layer_norm_epsilon",
}  # fmt: skip

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "place"]
