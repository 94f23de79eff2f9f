"""A tiny Llama to be written in every weight format, and its logits."""

import json

import torch
from safetensors.torch import save_file

from slipstream.arch.common import NAMES
from slipstream.arch.detect import config_to_spec
from slipstream.arch.names import checkpoint_name
from slipstream.arch.spec import tensors
from slipstream.model import load_model
from slipstream.ops import Kernels
from tests.model.paged import Paged, Rows

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip
TOKENS = [(37 * step + 11) % 96 for step in range(12)]


def random_weights(**changes) -> dict[str, torch.Tensor]:
    """Parameters under the names of transformers, fp32."""
    generator = torch.Generator().manual_seed(5)
    out = {}
    for wanted in tensors(config_to_spec({**CONFIG, **changes})):
        values = torch.randn(wanted.shape, generator=generator) * (0.1 if len(wanted.shape) > 1 else 0.2)
        out[checkpoint_name(NAMES, wanted.name)] = values + (wanted.role == "norm")
    return out


def is_linear(name: str) -> bool:
    return "_proj." in name and name.endswith(".weight")


def write(folder, stored: dict[str, torch.Tensor], *, files=None, **changes):
    """A checkpoint folder; `files` are further JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    for name, content in (files or {}).items():
        (folder / name).write_text(json.dumps(content))
    save_file({name: tensor.contiguous().clone() for name, tensor in stored.items()}, folder / "model.safetensors")
    return folder


def logits(source, quant=None) -> torch.Tensor:
    decoder = load_model(source, Kernels(only="reference"), quant=quant, max_rows=len(TOKENS), max_logit_rows=len(TOKENS))
    return Paged(decoder).step(Rows(0, TOKENS))[0]
