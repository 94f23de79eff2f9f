"""Rest: the last layers of a frozen target in plain torch, for drafters whose rows run through them (`Decoder.part` in training).

Owns which models it can compute, and their forward pass. Gradients flow through it to what joins; no weight of it changes. Must not know
the drafter, nor the loss.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from slipstream.arch.heads import stored_name
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec, tensors
from slipstream.base.errors import InputError
from slipstream.model.build import open_weights
from slipstream.model.rope import rope_table
from slipstream.train.heads import Block, attended, turned


class Rest:
    """Layers, and the norm behind them.

    Args:
        source: the model.
        first: of its layers; those before it are left out.
        device: where it runs.

    Raises:
        InputError: its layers are not those of a Llama.
    """

    def __init__(self, source: Path | str, first: int, device: str):
        weights = open_weights(source, device)
        spec = self._spec = weights.spec
        if first >= len(spec.layers) or not all(_plain(spec, layer) for layer in spec.layers[first:]):
            raise InputError(
                f"{spec.name}: rows that join at layer {first} can only be trained where layers from there on are a Llama's: rotary "
                "attention and a gated feed-forward, each behind an RMS norm; take --kind eagle or medusa"
            )
        known = {parameter.name: parameter for parameter in tensors(spec)}
        self._layers = []
        for number in range(first, len(spec.layers)):
            prefix = f"layers.{number}."
            names = {stored_name(name).split(".", 2)[2]: name for name in known if name.startswith(prefix)}
            layer = Block(_config(spec, spec.layers[number]), attends=True).to(device).requires_grad_(False)
            layer.load_state_dict({stored: weights.get(name).float() for stored, name in names.items()})
            self._layers.append(layer)
        ropes = [layer.mixer.rope for layer in spec.layers[first:]]
        self._angles = [rope_table(rope, spec.head_dim, spec.max_len).repeat(1, 1, 2).to(device) for rope in ropes]  # cosines, sines
        self._norm = nn.RMSNorm(spec.hidden, eps=spec.norm_eps).to(device).requires_grad_(False)
        self._norm.load_state_dict({"weight": weights.get("norm.weight").float()})

    def __call__(self, states: Tensor, rows: Iterable[Tensor]) -> list[Tensor]:
        """See train.loop.Target.joined."""
        rows, time = list(rows), states.shape[1]
        for layer, angles in zip(self._layers, self._angles, strict=True):
            turn = partial(turned, *angles[: time + len(rows)].unbind(1))
            past: list[tuple[Tensor, Tensor]] = []  # the window first, as if it were depth 0
            with torch.no_grad():
                states = _through(layer, states, turn, past)
            rows = [_through(layer, own, turn, past) for own in rows]
        return [self._norm(own) for own in rows]


def _through(layer: Block, x: Tensor, turn: partial, past: list[tuple[Tensor, Tensor]]) -> Tensor:
    return layer.fed(x + attended(layer.self_attn, layer.input_layernorm(x), turn, past)).float()


def _config(spec: ModelSpec, layer: LayerSpec) -> dict:
    """As Block wants it."""
    return {
        "hidden_size": spec.hidden,
        "rms_norm_eps": spec.norm_eps,
        "num_attention_heads": layer.mixer.heads,
        "num_key_value_heads": layer.mixer.kv_heads,
        "head_dim": layer.mixer.head_dim,
        "intermediate_size": layer.ffn.width,
    }


def _plain(spec: ModelSpec, layer: LayerSpec) -> bool:
    """Whether a layer has nothing that a Llama's has not."""
    if not isinstance(layer.mixer, AttentionSpec) or not isinstance(layer.ffn, FfnSpec):
        return False
    mixer, ffn = layer.mixer, layer.ffn
    bare = AttentionSpec(mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.rope)
    return spec.norm == "rms" and mixer == bare and ffn == FfnSpec(ffn.width) and layer == LayerSpec(mixer, ffn)
