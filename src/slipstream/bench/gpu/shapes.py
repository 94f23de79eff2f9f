"""Shapes that cases sweep over: linear layers and attention of the models of interest. Owns the choice; the measures are arch's."""

from dataclasses import dataclass

from slipstream.arch.shapes import shape

MODELS, DRY_MODELS = ("llama-3.1-8b", "llama-3.1-70b"), ("tiny",)


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer: weight [n, k]."""

    model: str
    name: str
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.model} {self.name} {self.n}x{self.k}"


@dataclass(frozen=True, slots=True)
class Heads:
    """Attention of a model."""

    model: str
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Numbers of one row of q, k and v."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


def layers(dry: bool, models: tuple[str, ...] = MODELS) -> list[Layer]:
    """The five products of a step, as the engine fuses them; of some models, without a device of a tiny one."""
    out = []
    for model in DRY_MODELS if dry else models:
        spec = shape(model)
        mixer, ffn = spec.layers[0].mixer, spec.layers[0].ffn
        qkv = (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim
        measures = {
            "qkv": (qkv, spec.hidden),
            "o": (spec.hidden, mixer.heads * mixer.head_dim),
            "gate_up": (2 * ffn.width, spec.hidden),
            "down": (spec.hidden, ffn.width),
            "head": (spec.vocab, spec.hidden),
        }
        out += [Layer(model, name, n, k) for name, (n, k) in measures.items()]
    return out


def often(model: str, layer: str) -> int:
    """How many layers of this name a model has."""
    return 1 if layer == "head" else len(shape(model).layers)


def heads(dry: bool) -> list[Heads]:
    """The attention of the same models."""
    mixers = [(model, shape(model).layers[0].mixer) for model in (DRY_MODELS if dry else MODELS)]
    return [Heads(model, mixer.heads, mixer.kv_heads, mixer.head_dim) for model, mixer in mixers]
