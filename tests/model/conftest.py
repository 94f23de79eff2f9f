"""Kernel sets to test with, and tiny random Llama checkpoints as transformers writes them."""

import os
from pathlib import Path

import pytest
import torch

from slipstream.base.errors import BackendError
from slipstream.ops import Kernels

BASE = dict(
    vocab_size=97, hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
VARIANTS = {
    "gqa_tied": dict(tie_word_embeddings=True),
    "mha_biases": dict(num_key_value_heads=4, attention_bias=True, mlp_bias=True),
    "llama3_rope_head_dim": dict(head_dim=20, rope_parameters={**LLAMA3, "rope_theta": 500.0}),
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """As in the worker; two torch threads on two busy cores wait for each other a hundred times longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["reference", "cpu"])
def kernels(request) -> Kernels:
    try:
        return Kernels(only=request.param)
    except BackendError as error:
        pytest.skip(f"no {request.param} kernels here: {error}")


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).parents[3] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set SLIPSTREAM_SHARED")
    return folder


@pytest.fixture(scope="session")
def make_llama():
    """Function: config changes -> a transformers LlamaForCausalLM with all parameters random, biases and norms included."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(**changes):
        torch.manual_seed(7)
        model = LlamaForCausalLM(LlamaConfig(**{**BASE, **changes})).eval()
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                if name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5)
                else:
                    parameter.normal_(0, 0.2)
        return model

    return make


@pytest.fixture(scope="session", params=VARIANTS)
def checkpoint(request, make_llama, tmp_path_factory):
    """(transformers model, its folder), one of VARIANTS."""
    model = make_llama(**VARIANTS[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, folder
