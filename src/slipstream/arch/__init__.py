"""Floor 1: what a model is made of, as data. Owns ModelSpec, the families that read config.json, named shapes; no torch.

    read_spec      a checkpoint folder's config.json -> ModelSpec
    shape          a named shape without weights -> ModelSpec
    tensors        every parameter of a ModelSpec, by its canonical name
"""

from slipstream.arch.detect import read_spec
from slipstream.arch.rope import LinearScaling, Llama3Scaling, LongRope, RopeSpec, YarnScaling
from slipstream.arch.shapes import SHAPES, shape
from slipstream.arch.spec import (
    AttentionSpec,
    FfnSpec,
    LayerSpec,
    MlaSpec,
    ModelSpec,
    MoeSpec,
    PlainFfnSpec,
    RouterSpec,
    TensorSpec,
    tensors,
)

__all__ = [
    "SHAPES",
    "AttentionSpec",
    "FfnSpec",
    "LayerSpec",
    "LinearScaling",
    "Llama3Scaling",
    "LongRope",
    "MlaSpec",
    "ModelSpec",
    "MoeSpec",
    "PlainFfnSpec",
    "RopeSpec",
    "RouterSpec",
    "TensorSpec",
    "YarnScaling",
    "read_spec",
    "shape",
    "tensors",
]
