"""What the tensors of a GGUF file are called, and how llama.cpp's converter lays out what several architectures have.

Names: ggml-org/llama.cpp, gguf-py/gguf/constants.py. Must not know metadata or how tensors are stored.
"""

from collections.abc import Mapping
from dataclasses import replace

from slipstream.arch.names import Place, checkpoint_name, heads
from slipstream.arch.spec import ModelSpec, TensorSpec

# canonical name -> name in the file; {} is the number of the layer, the ending .weight or .bias is kept
NAMES = {
    "embed": "token_embd",
    "positions": "position_embd",
    "layers.{}.mixer.norm": "blk.{}.attn_norm",
    "layers.{}.mixer.post_norm": "blk.{}.post_attention_norm",
    **{f"layers.{{}}.mixer.{part}": f"blk.{{}}.attn_{part}" for part in ("q", "k", "v", "q_norm", "k_norm")},
    "layers.{}.mixer.o": "blk.{}.attn_output",
    "layers.{}.ffn.norm": "blk.{}.ffn_norm",
    "layers.{}.ffn.post_norm": "blk.{}.post_ffw_norm",
    "layers.{}.ffn.router": "blk.{}.ffn_gate_inp",
    "layers.{}.ffn.shared_gate": "blk.{}.ffn_gate_inp_shexp",
    **{f"layers.{{}}.ffn.{part}": f"blk.{{}}.ffn_{part}" for part in ("gate", "up", "down")},
    **{f"layers.{{}}.ffn.experts.{{}}.{part}": f"blk.{{}}.ffn_{part}_exps" for part in ("gate", "up", "down")},
    **{f"layers.{{}}.ffn.shared.{part}": f"blk.{{}}.ffn_{part}_shexp" for part in ("gate", "up", "down")},
    "norm": "output_norm",
    "head": "output",
}
NOT_WEIGHTS = (r"rope_freqs\.weight",)  # read as part of the metadata
_ENDINGS = {"sinks": "attn_sinks.weight", "correction": "exp_probs_b.bias"}  # parameters that are neither weight nor bias


def place(spec: ModelSpec, parameter: TensorSpec, names: Mapping[str, str] = NAMES) -> Place:
    """Where a parameter lies if nothing was done to it: whole, as [outputs, inputs]; the experts of a layer are one stack.

    Args:
        names: a kind's table.
    """
    parts = parameter.name.split(".")
    if parts[-1] in _ENDINGS:
        return Place(f"blk.{parts[1]}.{_ENDINGS[parts[-1]]}", parameter.shape)
    name = checkpoint_name(names, parameter.name)
    if "experts" in parts:
        return Place(name, (parameter.routed[1], *parameter.shape), number=int(parts[4]))
    return Place(name, parameter.shape)


def neighbours(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """As `place`, for kinds whose rope turns neighbours (2 i, 2 i + 1): the converter put row i of the first half of a head before
    row i of the second, in q and k."""
    found, part, mixer = place(spec, parameter), parameter.name.split(".")[-2], spec.layers[0].mixer
    if part not in ("q", "k"):
        return found
    order = (*range(0, mixer.head_dim, 2), *range(1, mixer.head_dim, 2))
    return replace(found, rows=heads(mixer.heads if part == "q" else mixer.kv_heads, mixer.head_dim, order))


def as_family(found: Place, own: Place) -> Place:
    """The family's own order of rows within a tensor that only has another name and shape here."""
    return replace(own, shape=found.shape, rows=found.rows)
