"""Every architecture of GGUF: a folder of transformers, turned into a GGUF file by the converter's rules, gives the same logits to the
bit; and transformers' own reader of GGUF agrees where it has one for the architecture."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from slipstream.base import registry
from slipstream.model import load_model
from slipstream.ops import Kernels
from slipstream.weights.gguf.config import KINDS
from tests.contract.families import CASES as FAMILIES
from tests.contract.families import GEMMA, MLA, WINDOW, YARN
from tests.model.paged import Paged, Rows
from tests.weights.gguf_convert import ARCHITECTURES, convert

transformers = pytest.importorskip("transformers")
TOKENS = [(37 * step + 11) % 97 for step in range(30)]
MSCALE = dict(YARN, mscale=0.7, mscale_all_dim=0.7)
EVERY = dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20)


@dataclass(frozen=True)
class Case:
    """A case of tests/contract/families.py that GGUF can hold.

    Attributes:
        family: its name there.
        config: changes to it.
        read: transformers reads such a file.
    """

    family: str
    config: dict[str, Any] = field(default_factory=dict)
    read: bool = False


CASES = {
    "llama": Case("llama"),
    "mistral": Case("mistral", dict(sliding_window=None)),
    "mixtral": Case("mixtral", dict(sliding_window=None)),
    "qwen2": Case("qwen2", read=True),
    "qwen2-linear": Case("qwen2-linear"),
    "qwen2-yarn": Case("qwen2-yarn"),
    "qwen3": Case("qwen3"),
    "qwen2-moe": Case("qwen2-moe", dict(EVERY, mlp_only_layers=[], norm_topk_prob=False), read=True),
    "qwen3-moe": Case("qwen3-moe", dict(decoder_sparse_step=1)),
    "gemma": Case("gemma"),
    "gemma2": Case("gemma2", dict(query_pre_attn_scalar=16)),
    "gemma3": Case("gemma3", dict(query_pre_attn_scalar=16, sliding_window_pattern=6)),
    "phi": Case("phi", dict(intermediate_size=192, rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5))),
    "phi3": Case("phi3", dict(original_max_position_embeddings=96)),
    "phi3-short": Case("phi3-short"),
    "phi3-long": Case("phi3-long"),
    "phi4-mini": Case("phi4-mini", dict(sliding_window=None)),
    "olmo2": Case("olmo2"),
    "granite": Case("granite"),
    "smollm3": Case("smollm3"),
    "starcoder2": Case("starcoder2", dict(sliding_window=None)),
    "gpt-neox": Case("gpt-neox"),
    "gpt-neox-sequential": Case("gpt-neox-sequential"),
    "falcon-7b": Case("falcon-7b"),
    "falcon-40b": Case("falcon-40b", dict(bias=False)),
    "gpt2": Case("gpt2"),
    "gpt-bigcode": Case("gpt-bigcode"),
    "deepseek-v2": Case("deepseek-v2", dict(attention_bias=False)),
    "deepseek-v2-lite": Case("deepseek-v2-lite", dict(rope_parameters=MSCALE, topk_method="greedy")),
    "deepseek-v3": Case("deepseek-v3"),
    "deepseek-v3-yarn": Case("deepseek-v3-yarn", dict(rope_parameters=MSCALE)),
    "gpt-oss": Case("gpt-oss", dict(rope_parameters=dict(YARN, truncate=False), swiglu_limit=7.0)),
}


def written(name, folder):
    """The model of a case, saved; every parameter random."""
    case, family = CASES[name], FAMILIES[CASES[name].family]
    kind = getattr(transformers, family.model)
    torch.manual_seed(11)
    model = kind(kind.config_class(**{**family.base, **family.config, **case.config})).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1 and parameter_name.endswith("weight"):
                parameter.add_(torch.empty_like(parameter).uniform_(-0.4, 0.4))
            else:
                parameter.normal_(0, 0.2)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.2)
    model.save_pretrained(folder)
    return model


def logits(source):
    decoder = load_model(source, Kernels(only="reference"), max_rows=len(TOKENS), max_logit_rows=len(TOKENS))
    return Paged(decoder).step(Rows(0, TOKENS))[0].clone()


def expected(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS]), use_cache=False).logits[0]


@pytest.mark.parametrize("name", CASES)
def test_a_file_gives_the_logits_of_the_folder(name, tmp_path):
    model = written(name, tmp_path / "folder")
    found = logits(convert(tmp_path / "folder", tmp_path / "model.gguf"))
    torch.testing.assert_close(found, expected(model), rtol=0, atol=1e-4)
    assert torch.equal(found, logits(tmp_path / "folder"))
