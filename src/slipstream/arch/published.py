"""Trained heads as others publish them: which format a folder holds, told by its tensors first and its config.json second (configs in
the wild often belong to another file), and what it means as a HeadSpec.

    EAGLE     fc [hidden, 2 hidden], one layer of Llama without its first norm; the target's output layer (SafeAILab/EAGLE, EAGLE-1 and 2)
    EAGLE-3   fc [hidden, levels * hidden], q, k and v read [*, 2 hidden]; an output layer for some of the tokens, `d2t` says which
              (SafeAILab/EAGLE; `midlayer`; vllm-project/speculators: `layers.0`)
    MTP       in the target's own checkpoint: the layer behind its last (DeepSeek V3: enorm, hnorm, eh_proj, shared_head), or `mtp.*` (Qwen:
              pre_fc_norm_embedding, pre_fc_norm_hidden, fc, norm); one layer as the target's last one is
    ReDrafter rnn_w, rnn_u, and `lm_head`: blocks and then an output layer (apple/ml-recurrent-drafter)
    Medusa    per token ahead x + silu(W x + b) and an output layer (FasterDecoding/Medusa; `blocks` and `lm_heads` as vLLM converts them)

Owns the tables of names. Data only: must not know files, tensors' contents or how a head is computed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from slipstream.arch.detect import config_to_spec
from slipstream.arch.fields import Fields
from slipstream.arch.heads import Bottom, HeadSpec, stored_name
from slipstream.arch.names import Place, place_of
from slipstream.arch.spec import FfnSpec, LayerSpec, ModelSpec
from slipstream.base import registry
from slipstream.base.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
FAMILIES = "slipstream.arch.families"
SPARE = r"(.*\.)?rotary_emb\.inv_freq|t2d"  # follows from the rest
NOT_OF_THE_LAYER = (  # fields that say nothing of it, or less than its tensors
    *("attention_bias", "mlp_bias", "bias", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
    *("draft_vocab_size", "target_hidden_size", "eagle_config", "eagle_aux_hidden_state_layer_ids", "norm_before_residual"),
    *("norm_before_fc", "fc_norm", "norm_output", "eagle_fc_bias", "truncated_vocab_size", "speculators_config", "speculators_version"),
    *("speculators_model_type", "transformer_layer_config", "model", "embed_requires_grad", "has_no_defaults_at_init"),
)
EAGLE3 = {
    "embed_norm.weight": "layers.0.input_layernorm.weight",
    "state_norm.weight": "layers.0.hidden_norm.weight",
    "join.weight": "fc.weight",
    "head.ids": "d2t",
}
WRAPPERS = ("transformer_layer_config", "model")  # objects of a config that hold the layer's


Found = tuple[HeadSpec, dict[str, Place]]


def published(config: Mapping[str, Any], shapes: Shapes, target: ModelSpec, name: str) -> Found:
    """A published head, and where each of its parameters lies.

    Args:
        config: its config.json.
        shapes: of its tensors.
        target: the model that it is to guess for; what a config leaves out is as there.
        name: for messages.

    Raises:
        CheckpointError: it is none of the formats above, or asks for something that is not computed here.
    """
    known = {_short(stored): stored for stored in shapes if not re.fullmatch(SPARE, stored)}
    flat = dict(config) | next((config[key] for key in WRAPPERS if isinstance(config.get(key), Mapping)), {})
    fields = Fields(flat, f"{name}/config.json")
    _check_family(config, target, name)
    read = _reader(known, shapes)
    if read is None:
        raise CheckpointError(
            f"{name}: holds no head in a known format (EAGLE, EAGLE-3, Medusa, ReDrafter, or what slipstream train drafter writes); its "
            f"tensors: {', '.join(sorted(shapes)[:6])}"
        )
    spec, places = read(fields, {short: shapes[stored] for short, stored in known.items()}, target, name)
    used = {place.name for place in places.values()}
    if more := sorted(set(known) - used):
        raise CheckpointError(f"{name}: tensor {known[more[0]]!r} belongs to no part of a head of kind {spec.kind!r} that is computed here")
    return spec, {canonical: replace(place, name=known.get(place.name, place.name)) for canonical, place in places.items()}


def _short(stored: str) -> str:
    return stored.removeprefix("model.").replace("midlayer.", "layers.0.")


def _reader(known: Mapping[str, str], shapes: Shapes) -> Callable[..., Found] | None:
    """Who reads such tensors."""
    if "0.0.linear.weight" in known or "blocks.0.layers.0.weight" in known:
        return _medusa
    if "rnn_w.weight" in known:
        return _redrafter
    if "fc.weight" not in known or len(shapes[known["fc.weight"]]) != 2:
        return None
    wide = "layers.0.hidden_norm.weight" in known
    return _eagle3 if wide else _eagle


def _check_family(config: Mapping[str, Any], target: ModelSpec, name: str) -> None:
    """Refuses a head whose config says that it was trained for another sort of model."""
    verifier = (config.get("speculators_config") or {}).get("verifier") or {}
    known = registry.load(FAMILIES, target.family).ARCHITECTURES if target.family in registry.names(FAMILIES) else ()
    asked = verifier.get("architectures") or []
    if known and asked and not set(asked) & set(known):
        raise CheckpointError(
            f"{name}/config.json: verifier.architectures={asked}: trained for {verifier.get('name_or_path') or 'another model'}, but "
            f"{target.name} is of the family {target.family!r}; take a head that was trained for it"
        )


def _layer(fields: Fields, shapes: Shapes, target: ModelSpec, name: str) -> ModelSpec:
    """The one layer of an EAGLE head: Llama's, with biases where the file has some. The vocabulary is the target's."""
    own = {key: value for key, value in fields.values.items() if key not in NOT_OF_THE_LAYER}
    body = config_to_spec({**own, "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "tie_word_embeddings": True})
    (layer,) = body.layers
    bias = {part: f"layers.0.self_attn.{part}_proj.bias" in shapes for part in "qo"}
    wide = "layers.0.hidden_norm.weight" in shapes
    mixer = replace(layer.mixer, bias=bias["q"], o_bias=bias["o"], inputs=2 * body.hidden if wide else 0)
    ffn = FfnSpec(layer.ffn.width, "layers.0.mlp.down_proj.bias" in shapes, layer.ffn.activation)
    longest = max(body.max_len, target.max_len)  # many a config.json has the length that was trained on; rotary positions go on
    return replace(body, name=name, max_len=longest, layers=(LayerSpec(mixer, ffn, fed=True),))


def _eagle(fields: Fields, shapes: Shapes, target: ModelSpec, name: str) -> Found:
    body = _layer(fields, shapes, target, name)
    bottom = Bottom("plain", bias="fc.bias" in shapes)
    head = HeadSpec(
        "eagle", (len(target.layers) + 1,), 1, body, bottom=bottom, norm=False, embeds="embed_tokens.weight" in shapes,
        outputs=_outputs(shapes),
    )  # fmt: skip
    return head, _places(head, {"fuse_embed.bias": "fc.bias"}) | _halves("fc.weight", body.hidden)


def _halves(name: str, hidden: int) -> dict[str, Place]:
    """Two matrices stored as one beside each other: for the embedding, and for the state."""
    parts = {"fuse_embed.weight": range(hidden), "fuse_state.weight": range(hidden, 2 * hidden)}
    return {canonical: Place(name, (hidden, 2 * hidden), columns=columns) for canonical, columns in parts.items()}


def _eagle3(fields: Fields, shapes: Shapes, target: ModelSpec, name: str) -> Found:
    for flag in ("norm_before_fc", "fc_norm"):
        fields.absent(flag, "take an EAGLE-3 head without it")
    body = _layer(fields, shapes, target, name)
    bottom = Bottom("wide", normed_stream=fields.flag("norm_before_residual", False))
    head = HeadSpec(
        "eagle", _levels(fields, target), 1, body, bottom=bottom, normed=fields.flag("norm_output", False),
        embeds="embed_tokens.weight" in shapes, outputs=_outputs(shapes), mapped="d2t" in shapes,
    )  # fmt: skip
    return head, _places(head, EAGLE3)


def _levels(fields: Fields, target: ModelSpec) -> tuple[int, ...]:
    """The levels that an EAGLE-3 head reads. Written at the top they are layers whose input is meant, inside `eagle_config` such whose
    output is; where nothing is written they are EAGLE's own."""
    count, name = len(target.layers), "eagle_aux_hidden_state_layer_ids"
    given, inner = fields.get(name, None), fields.get("eagle_config", {})
    shift = 0
    if given is None and isinstance(inner, Mapping) and inner.get(name) is not None:
        given, shift = inner[name], 1
    levels = [2, count // 2, count - 3] if given is None else given
    if not isinstance(levels, list) or not levels or not all(type(level) is int for level in levels):
        raise fields.error(name, levels, f"must be a list of layers; {target.name} has {count}")
    return tuple(level + shift for level in levels)


def _outputs(shapes: Shapes) -> int:
    return shapes["lm_head.weight"][0] if "lm_head.weight" in shapes else 0


def _places(head: HeadSpec, renamed: Mapping[str, str] = {}) -> dict[str, Place]:
    """What has the names of most models, but for those `renamed`."""
    own = {"embed.weight": "embed_tokens.weight", "head.weight": "lm_head.weight", **renamed}
    return {one.name: Place(own.get(one.name) or stored_name(one.name), one.shape) for one in head.tensors()}


def _medusa(fields: Fields, shapes: Shapes, target: ModelSpec, name: str) -> Found:
    """The number of heads is that of the file: many a config.json names another."""
    converted = "blocks.0.layers.0.weight" in shapes
    block = "blocks.{}.layers.{}" if converted else "{}.{}.linear"
    depth, blocks = (
        next(count for count in range(len(shapes) + 1) if f"{block.format(*at(count))}.weight" not in shapes)
        for at in (lambda count: (count, 0), lambda count: (0, count))
    )
    hidden = shapes[f"{block.format(0, 0)}.weight"][-1]
    own = "lm_heads.{}" if converted else f"{{}}.{blocks}"
    outputs = shapes.get(f"{own.format(0)}.weight", (0,))[0]
    body = replace(target, name=name, hidden=hidden, vocab=outputs or target.vocab, layers=target.layers[-1:])
    head = HeadSpec("medusa", (len(target.layers) + 1,), depth, body, "residual", Bottom("state"), False, outputs=outputs, blocks=blocks)
    places = {}
    for parameter in head.tensors():
        part, *numbers, ending = parameter.name.split(".")
        name = f"{(block if part == 'blocks' else own).format(*numbers)}.{ending}"
        places[parameter.name] = Place(name, parameter.shape)
    return head, places


def _redrafter(fields: Fields, shapes: Shapes, target: ModelSpec, name: str) -> Found:
    blocks = next(count for count in range(len(shapes) + 1) if f"lm_head.{count}.linear.weight" not in shapes)
    outputs, wide = shapes.get(f"lm_head.{blocks}.weight", (0, 0))
    hidden = shapes["rnn_w.weight"][0]
    if wide != 2 * hidden:
        raise fields.error("exit_dim", wide, f"is not supported; it must be twice the hidden size of {hidden}")
    body = replace(target, name=name, hidden=hidden, vocab=outputs, layers=target.layers[-1:])
    head = HeadSpec(
        "redrafter", (len(target.layers) + 1,), 1, body, bottom=Bottom("state"), norm=False, outputs=outputs, blocks=blocks
    )  # fmt: skip
    renamed = {"rnn_token.weight": "rnn_w.weight", "rnn_state.weight": "rnn_u.weight", "rnn_state.bias": "rnn_u.bias"}
    renamed |= {f"blocks.{at}.{part}": f"lm_head.{at}.linear.{part}" for at in range(blocks) for part in ("weight", "bias")}
    return head, _places(head, renamed | {"head.weight": f"lm_head.{blocks}.weight"})


def mtp(shapes: Shapes, target: ModelSpec) -> Found | None:
    """The module that guesses ahead in the target's own checkpoint, and where its parameters lie; None if there is none. Embeddings and
    output layer are the target's by design, also where the file holds them once more."""
    count = len(target.layers)
    behind, own = f"model.layers.{count}.", "mtp."
    if f"{behind}eh_proj.weight" in shapes:
        prefix, names = behind, {"embed_norm": "enorm", "state_norm": "hnorm", "fuse": "eh_proj", "norm": "shared_head.norm"}
    elif f"{own}fc.weight" in shapes:
        prefix, names = own, {"embed_norm": "pre_fc_norm_embedding", "state_norm": "pre_fc_norm_hidden", "fuse": "fc", "norm": "norm"}
    else:
        return None
    body = replace(target, name=f"{target.name}: the module that guesses ahead", layers=target.layers[-1:])
    head = HeadSpec("mtp", (count + 1,), 1, body, normed=True)
    family, places = registry.load(FAMILIES, target.family), _halves(f"{prefix}{names['fuse']}.weight", body.hidden)
    for parameter in head.tensors():
        part, _, ending = parameter.name.rpartition(".")
        if part in names:
            places[parameter.name] = Place(f"{prefix}{names[part]}.{ending}", parameter.shape)
        elif part.startswith("layers."):
            place = place_of(family, target, replace(parameter, name=parameter.name.replace("layers.0.", f"layers.{count}.")))
            places[parameter.name] = replace(place, name=place.name.replace(behind, prefix + ("layers.0." if prefix == own else "")))
    return head, places
