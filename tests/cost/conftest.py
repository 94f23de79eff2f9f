"""Specs with hand-computed costs."""

import json
import os
from pathlib import Path

import pytest

from slipstream.arch import AttentionSpec, FfnSpec, LayerSpec, ModelSpec, RopeSpec, shape
from slipstream.arch.detect import config_to_spec

SHARED = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).resolve().parents[3] / "shared"))


@pytest.fixture
def tiny() -> ModelSpec:
    """hidden 8, 2 layers, 4 heads on 2 KV heads of 4, width 16, vocabulary 10, own head.

    Per layer: q 16*8, k and v 8*8 each, o 8*16, gate, up and down 16*8 each = 768 weights, 80 output rows, 16 in norms.
    """
    layer = LayerSpec(AttentionSpec(heads=4, kv_heads=2, head_dim=4, rope=RopeSpec(10000.0)), FfnSpec(width=16))
    return ModelSpec("tiny", "llama", 8, 10, 64, 1e-5, False, (layer, layer))


@pytest.fixture
def one_billion() -> ModelSpec:
    """Llama 3.2 1B, from the published config where it is at hand."""
    path = SHARED / "data/model_configs/Llama-3.2-1B-Instruct.json"
    if not path.is_file():
        return shape("llama-3.2-1b")
    return config_to_spec(json.loads(path.read_text()))
