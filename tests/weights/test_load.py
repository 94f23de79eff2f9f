"""Checkpoints as parameters: complete or an error that names what is wrong; dummies follow from their seed."""

import json
import time

import pytest
import torch
from safetensors.torch import save_file

from slipstream.arch import SHAPES, shape, tensors
from slipstream.arch.families.llama import NAMES
from slipstream.arch.names import checkpoint_name
from slipstream.base.errors import CheckpointError, InputError
from slipstream.weights import Dummy, load

Q = "model.layers.1.self_attn.q_proj.weight"


def write(folder, change=lambda tensors: None, dtype=torch.float32, **config):
    """A tiny checkpoint folder with its tensors changed by `change`."""
    weights = Dummy(shape("tiny"), "fp32")
    stored = {checkpoint_name(NAMES, wanted.name): weights.get(wanted.name).to(dtype) for wanted in tensors(weights.spec)}
    change(stored)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**SHAPES["tiny"], **config}))
    save_file(stored, folder / "model.safetensors")
    return folder


def test_parameters_come_back(tmp_path):
    expected, found = Dummy(shape("tiny"), "fp32"), load(write(tmp_path / "tiny"))
    assert found.spec.name == "tiny" and found.format == "fp32"
    for wanted in tensors(found.spec):
        tensor = found.get(wanted.name)
        assert tuple(tensor.shape) == wanted.shape
        assert torch.equal(tensor, expected.get(wanted.name))


def test_matrices_stay_in_the_mapping_and_vectors_are_fp32(tmp_path):
    found = load(write(tmp_path, dtype=torch.bfloat16))
    assert found.format == "bf16"
    assert found.get("embed.weight").dtype == torch.bfloat16
    assert found.get("embed.weight").data_ptr() == found.get("embed.weight").data_ptr()
    assert found.get("norm.weight").dtype == torch.float32


def test_mixed_types_are_widened_and_said(tmp_path, caplog):
    found = load(write(tmp_path, lambda t: t.update({Q: t[Q].bfloat16()})))
    assert found.format == "fp32" and "bfloat16 and float32" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(Q), rf"'{Q}' is missing"),
        (lambda t: [t.pop(name) for name in list(t) if "mlp" in name], r"mlp.*and 2 more are missing"),
        (lambda t: t.pop("lm_head.weight"), r"lm_head.*tie_word_embeddings=true"),
        (lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": torch.zeros(64)}), r"q_proj.bias' is in the checkpoint, but not"),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(2)}), r"layers\.2\.mlp\.up_proj.*in the checkpoint"),
        (lambda t: t.update({Q: torch.zeros(64, 32)}), rf"'{Q}': expected shape \[64, 64\], found \[64, 32\]"),
        (lambda t: t.update({Q: torch.zeros(64, 64, dtype=torch.int8)}), rf"'{Q}' is I8; supported: F32"),
    ],
)
def test_wrong_checkpoints_are_named(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(write(tmp_path, change))


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path):
    def tie(stored):
        stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()

    assert load(write(tmp_path / "equal", tie, tie_word_embeddings=True)).spec.tied
    with pytest.raises(CheckpointError, match=r"lm_head\.weight' differs from the embedding"):
        load(write(tmp_path / "other", tie_word_embeddings=True))


def test_known_buffers_are_ignored(tmp_path):
    load(write(tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})))


def test_pickles_and_empty_folders_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPES["tiny"]))
    with pytest.raises(InputError, match=r"has neither model\.safetensors nor"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle.*safe_serialization"):
        load(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_unaligned_tensors_are_read(tmp_path):
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length + 3).to_bytes(8, "little") + data[8 : 8 + length] + b"   " + data[8 + length :])
    found = load(tmp_path)
    assert torch.equal(found.get("layers.1.mixer.q.weight"), Dummy(shape("tiny"), "fp32").get("layers.1.mixer.q.weight"))


def test_dummies_follow_from_seed_and_name():
    spec = shape("tiny")
    one, same, other = Dummy(spec), Dummy(spec), Dummy(spec, seed=1)
    for wanted in tensors(spec):
        tensor = one.get(wanted.name)
        assert tuple(tensor.shape) == wanted.shape and tensor.isfinite().all()
        assert tensor.dtype == (torch.bfloat16 if tensor.ndim == 2 else torch.float32)
        assert torch.equal(tensor, same.get(wanted.name)) and not torch.equal(tensor, other.get(wanted.name))
    assert not torch.equal(one.get("layers.0.mixer.q.weight"), one.get("layers.1.mixer.q.weight"))
    rows = one.get("embed.weight").float()
    assert torch.linalg.matrix_rank(rows) == 64
    assert 0.8 < rows.std() * 8 < 1.2


def test_large_dummies_are_fast():
    weights, begin = Dummy(shape("llama-3.2-1b")), time.process_time()
    tensor = weights.get("layers.3.ffn.gate.weight")  # 16.8 M numbers; drawing them one by one takes 20 times as long
    assert time.process_time() - begin < 1 and tensor.shape == (8192, 2048)
    assert torch.linalg.matrix_rank(tensor[::31].float()) == len(tensor[::31])
