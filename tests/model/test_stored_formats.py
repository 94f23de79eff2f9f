"""Weight formats through the whole decoder: bf16 is exact, int8 is near its own unpacked weights; sharded equals single."""

import pytest
import torch

from slipstream.arch import shape
from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.model import Decoder, load_model
from slipstream.weights import Dummy, load
from tests.model.paged import Paged, Rows

ROWS = 40
TOKENS = [(37 * step + 11) % 97 for step in range(ROWS)]


class Unpacked:
    """Weights whose matrices went through a format and back."""

    format = as_stored = "fp32"
    files, shelf = (), None

    def __init__(self, inner, format):
        self.spec, self._inner = inner.spec, inner
        self._scheme = registry.load("slipstream.quant.formats", format)

    def get(self, name):
        tensor = self._inner.get(name)
        packed = name != "embed.weight" and tensor.ndim == 2
        return self._scheme.unpack(self._scheme.quantise(tensor)) if packed else tensor


def logits(decoder):
    return Paged(decoder).step(Rows(0, TOKENS))[0]


def widened(folder):
    """Logits of transformers with the stored weights widened to fp32. (Not `model.float()`: the rounded copy that was
    saved also rounded its rope frequencies, which are no weights.)"""
    from transformers import LlamaForCausalLM

    with torch.no_grad():
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([TOKENS])).logits[0]


def test_bf16_checkpoint_is_computed_exactly(make_llama, kernels, tmp_path):
    make_llama(tie_word_embeddings=True).bfloat16().save_pretrained(tmp_path)
    decoder = load_model(tmp_path, kernels, max_rows=ROWS, max_logit_rows=ROWS)
    assert decoder.format == "bf16"
    torch.testing.assert_close(logits(decoder), widened(tmp_path), rtol=0, atol=1e-4)


def test_fp16_checkpoint_becomes_fp32_and_says_so(make_llama, kernels, tmp_path, caplog):
    make_llama().half().save_pretrained(tmp_path)
    decoder = load_model(tmp_path, kernels, max_rows=ROWS, max_logit_rows=ROWS)
    assert decoder.format == "fp32" and "float16" in caplog.text and "fp32" in caplog.text
    torch.testing.assert_close(logits(decoder), widened(tmp_path), rtol=0, atol=1e-4)


@pytest.mark.parametrize("stored", ["fp32", "bf16"])
def test_int8_is_near_its_unpacked_weights(kernels, stored):
    weights = Dummy(shape("tiny"), stored)  # untied: the head is quantised, the embedding is not
    packed = Decoder(weights.spec, weights, kernels, ROWS, ROWS, format="int8")
    plain = Decoder(weights.spec, Unpacked(weights, "int8"), kernels, ROWS, ROWS)
    found, expected = logits(packed), logits(plain)
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < 0.03  # what is left is the rounding of activations to int8


def test_int8_of_a_tied_head_keeps_the_embedding(kernels, make_llama, tmp_path, monkeypatch):
    make_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    decoder = load_model(tmp_path, kernels, quant="int8", max_rows=ROWS, max_logit_rows=ROWS)
    weights, untied = load(tmp_path), make_llama()
    scheme = registry.load("slipstream.quant.formats", "int8")
    with torch.no_grad():
        for name, parameter in untied.named_parameters():
            if "proj" in name:
                parameter.copy_(scheme.unpack(scheme.quantise(parameter)))
        untied.model.embed_tokens.weight.copy_(weights.get("embed.weight"))
        untied.lm_head.weight.copy_(scheme.unpack(scheme.quantise(weights.get("embed.weight"))))
        expected = untied(torch.tensor([TOKENS])).logits[0]
    tables, embed = [], kernels.embed
    monkeypatch.setattr(kernels, "embed", lambda ids, table, out: (tables.append(table), embed(ids, table, out)))
    found = logits(decoder)
    assert torch.equal(tables[0], weights.get("embed.weight"))
    assert decoder.format == "int8" and 0 < (found - expected).norm() / expected.norm() < 0.03


def test_sharded_equals_single(make_llama, kernels, tmp_path):
    model = make_llama()
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    single, sharded = (load_model(tmp_path / kind, kernels, max_rows=ROWS, max_logit_rows=ROWS) for kind in ("single", "sharded"))
    assert torch.equal(logits(single), logits(sharded))


def test_unknown_format_is_refused(kernels):
    with pytest.raises(InputError, match=r"quant='int9'.*int8"):
        load_model("dummy:tiny", kernels, quant="int9", max_rows=1, max_logit_rows=1)
    with pytest.raises(InputError, match="int8"):
        load_model("dummy:tiny:int8", kernels, max_rows=1, max_logit_rows=1)
