"""Every architecture of GGUF: a folder of transformers, turned into a GGUF file by the converter's rules, gives the same logits to the
bit; and transformers' own reader of GGUF agrees where it has one for the architecture."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slipstream.base import registry
from slipstream.base.errors import CheckpointError
from slipstream.model import load_model
from slipstream.ops import Kernels
from slipstream.weights import load
from slipstream.weights.gguf.config import KINDS
from tests.contract.families import CASES as FAMILIES
from tests.contract.families import GEMMA, WINDOW, YARN
from tests.model.paged import Paged, Rows
from tests.weights.gguf_convert import ARCHITECTURES, convert, gguf

transformers = pytest.importorskip("transformers")
TOKENS = [(37 * step + 11) % 97 for step in range(30)]
MSCALE = dict(YARN, mscale=0.7, mscale_all_dim=0.7)
STRETCHED = dict(
    full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6), sliding_attention=dict(rope_type="default", rope_theta=1e4)
)
PARTIAL = dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)  # the base is not written for such models
EVERY = dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20)


@dataclass(frozen=True)
class Case:
    """A case of tests/contract/families.py that GGUF can hold.

    Attributes:
        family: its name there.
        config: changes to it.
        read: transformers' reader of GGUF knows such files, and undoes all that the converter did.
    """

    family: str
    config: dict[str, Any] = field(default_factory=dict)
    read: bool = False


CASES = {
    "llama": Case("llama", read=True),
    "mistral": Case("mistral", dict(sliding_window=None)),
    "mixtral": Case("mixtral", dict(sliding_window=None)),
    "qwen2": Case("qwen2", read=True),
    "qwen2-linear": Case("qwen2-linear", read=True),
    "qwen2-yarn": Case("qwen2-yarn", read=True),
    "qwen3": Case("qwen3", read=True),
    "qwen2-moe": Case("qwen2-moe", dict(EVERY, mlp_only_layers=[], norm_topk_prob=False), read=True),
    "qwen3-moe": Case("qwen3-moe", dict(decoder_sparse_step=1), read=True),
    "gemma": Case("gemma"),
    "gemma2": Case("gemma2", dict(query_pre_attn_scalar=16), read=True),
    "gemma3-stretched": Case("gemma3", dict(GEMMA, query_pre_attn_scalar=16, sliding_window_pattern=6, rope_parameters=STRETCHED)),
    "gemma3": Case("gemma3", dict(query_pre_attn_scalar=16, sliding_window_pattern=6), read=True),
    "phi": Case("phi", dict(intermediate_size=192, rope_parameters=PARTIAL)),
    "phi3": Case("phi3", dict(original_max_position_embeddings=96), read=True),
    "phi3-short": Case("phi3-short", read=True),
    "phi3-long": Case("phi3-long", read=True),
    "phi4-mini": Case("phi4-mini", dict(sliding_window=None), read=True),
    "olmo2": Case("olmo2"),
    "granite": Case("granite"),
    "smollm3": Case("smollm3"),
    "starcoder2": Case("starcoder2", dict(sliding_window=None), read=True),
    "gpt-neox": Case("gpt-neox"),
    "gpt-neox-sequential": Case("gpt-neox-sequential"),
    "falcon-7b": Case("falcon-7b", read=True),
    "falcon-40b": Case("falcon-40b", dict(bias=False)),
    "gpt2": Case("gpt2", read=True),
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


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.read])
def test_transformers_reads_the_same_weights_and_fields(name, tmp_path):
    """The independent reader: what it finds in the file is the model that was written, so the file is as others write it."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = written(name, tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "model.gguf")
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    state, found = model.state_dict(), read["tensors"]
    assert set(state) - set(found) <= ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
    for tensor, values in found.items():
        torch.testing.assert_close(values, state[tensor], rtol=0, atol=1e-6)
    renamed = {"model_type", "_model_name_or_path", "rope_theta"} | ({"max_position_embeddings"} if name == "falcon-7b" else set())
    fields = {field: value for field, value in read["config"].items() if hasattr(model.config, field) and field not in renamed}
    assert len(fields) >= 4
    assert fields == {field: pytest.approx(getattr(model.config, field)) for field in fields}


def test_every_kind_has_a_case():
    stored = {FAMILIES[case.family].family for case in CASES.values()}
    named = {ARCHITECTURES.get(family, family).replace("-", "_") for family in stored} - {"deepseek"} | {"deepseek2"}
    assert named == set(registry.names(KINDS))


@pytest.mark.parametrize("whole", ["too", "only"])
def test_deepseek_with_keys_and_values_as_one_matrix(whole, tmp_path):
    """As files before 2025-04 have it, and those of some weeks after, which hold both."""
    written("deepseek-v3", tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "model.gguf", whole_kv_b=whole)
    assert torch.equal(logits(path), logits(tmp_path / "folder"))


def test_deepseek_parts_that_do_not_fit(tmp_path):
    written("deepseek-v3", tmp_path / "folder")

    def flat(writer):
        for number in range(3):
            writer.add_tensor(f"blk.{number}.attn_k_b.weight", torch.zeros(64, 12).numpy())
            writer.add_tensor(f"blk.{number}.attn_v_b.weight", torch.zeros(4, 10, 16).numpy())

    path = convert(tmp_path / "folder", tmp_path / "model.gguf", whole_kv_b="only", extra=flat)
    with pytest.raises(
        CheckpointError, match=r"model\.gguf: tensors blk\.\d\.attn_k_b\.weight, blk\.\d\.attn_v_b\.weight do not fit together"
    ):
        load(path)


def test_phi_with_one_matrix_for_queries_keys_and_values(tmp_path):
    """As the first files of Phi-2 have it."""
    family = FAMILIES["phi"]
    assert family.base["num_attention_heads"] == 4
    case = {**CASES["phi"].config, "num_key_value_heads": 4}
    torch.manual_seed(3)
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**{**family.base, **family.config, **case})).eval()
    model.save_pretrained(tmp_path / "folder")
    stored = load_file(tmp_path / "folder/model.safetensors")
    fused = {name: tensor for name, tensor in stored.items() if "q_proj" not in name and "k_proj" not in name and "v_proj" not in name}
    for number in range(3):
        for ending in ("weight", "bias"):
            parts = [stored[f"model.layers.{number}.self_attn.{part}_proj.{ending}"] for part in "qkv"]
            fused[f"model.layers.{number}.self_attn.qkv_proj.{ending}"] = torch.cat(parts)
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_text((tmp_path / "folder/config.json").read_text())
    save_file(fused, tmp_path / "old/model.safetensors")
    found = logits(convert(tmp_path / "old", tmp_path / "model.gguf"))
    torch.testing.assert_close(found, expected(model), rtol=0, atol=1e-4)


def test_a_window_that_the_file_states(tmp_path):
    """The converter leaves it out; other writers do not."""
    torch.manual_seed(5)
    family = FAMILIES["mistral"]
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**{**family.base, **family.config})).eval()
    model.save_pretrained(tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "model.gguf", extra=lambda writer: writer.add_sliding_window(WINDOW))
    assert load(path).spec.windows == (WINDOW,) and torch.equal(logits(path), logits(tmp_path / "folder"))


@pytest.mark.parametrize(("name", "kind"), [("mixtral", "Q8_0"), ("qwen3-moe", "Q4_0"), ("gpt-oss", "MXFP4"), ("deepseek-v3", "Q8_0")])
def test_quantised_stacks_are_unpacked_expert_by_expert(name, kind, tmp_path, monkeypatch):
    wide = dict(hidden_size=64, intermediate_size=64, moe_intermediate_size=32)
    monkeypatch.setitem(CASES, name, Case(CASES[name].family, {**CASES[name].config, **wide}))
    written(name, tmp_path / "folder")
    path = convert(tmp_path / "folder", tmp_path / "model.gguf", kinds=lambda target: kind if "_exps" in target else "F32")
    found, reader = load(path), gguf.GGUFReader(path)
    stacks = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors if "_exps.w" in tensor.name}
    assert stacks and all(values.ndim == 3 for values in stacks.values())
    for number in range(found.spec.layers[2].ffn.router.experts):
        for part in ("gate", "up", "down"):
            expert = found.get(f"layers.2.ffn.experts.{number}.{part}.weight").float()
            assert torch.equal(expert, torch.from_numpy(stacks[f"blk.2.ffn_{part}_exps.weight"][number].copy()))
    assert logits(path).isfinite().all()
