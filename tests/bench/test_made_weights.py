"""Weights of a shape as files: what other engines read is what Slipstream computes with."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from slipstream import LLM, SamplingParams
from slipstream.arch import SHAPES, shape, tensors
from slipstream.base.errors import InputError
from slipstream.bench import made_weights
from slipstream.bench.comparison import step_bytes
from slipstream.weights import load
from slipstream.weights.dummy import Dummy

gguf = pytest.importorskip("gguf", reason="the package gguf writes the files")
LLAMA3 = {key: SHAPES["llama-3.2-1b"][key] for key in ("rope_theta", "rope_scaling", "tie_word_embeddings")}


@pytest.fixture
def stretched(monkeypatch):
    """A small shape with the rope and the tied head of Llama 3.2."""
    monkeypatch.setitem(SHAPES, "stretched", {**SHAPES["tiny"], "head_dim": 64, **LLAMA3})
    return "stretched"


@pytest.mark.parametrize("stored", made_weights.STORED)
@pytest.mark.parametrize("name", ["tiny", "stretched"])
def test_slipstream_loads_what_the_file_means(tmp_path, stretched, name, stored):
    found = load(made_weights.gguf_file(name, stored, tmp_path))
    spec, dummy, kind = shape(name), Dummy(shape(name)), gguf.GGMLQuantizationType[stored]
    assert found.spec.layers == spec.layers and found.spec.tied == spec.tied and found.spec.vocab == spec.vocab
    for parameter in tensors(spec):
        values = dummy.get(parameter.name).float()
        if len(parameter.shape) > 1:
            values = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(values.numpy(), kind), kind))
        assert torch.equal(found.get(parameter.name).float(), values), parameter.name


def test_file_and_folder_are_the_same_model(tmp_path, stretched):
    sources = made_weights.gguf_file(stretched, "BF16", tmp_path), made_weights.bf16_folder(stretched, tmp_path)
    texts = []
    for source in sources:
        llm = LLM(source, kernels="reference", max_batch=1, max_len=64)
        texts.append(llm.generate([[5, 17, 300]], SamplingParams(max_tokens=12, temperature=0, ignore_eos=True))[0].outputs[0].token_ids)
        llm.close()
    assert texts[0] == texts[1] and len(set(texts[0])) > 3
    stored = load_file(sources[1] / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_transformers_reads_the_folder_as_slipstream_does(tmp_path, stretched):
    transformers = pytest.importorskip("transformers")
    folder = made_weights.bf16_folder(stretched, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    llm = LLM(folder, kernels="reference", max_batch=1, max_len=64)
    [output] = llm.generate([[5, 17, 300]], SamplingParams(max_tokens=1, temperature=0))
    llm.close()
    with torch.no_grad():
        assert model(torch.tensor([[5, 17, 300]])).logits[0, -1].argmax() == output.outputs[0].token_ids[0]


def test_written_once_and_always_the_same(tmp_path):
    said = []
    first = made_weights.gguf_file("tiny", "Q4_0", tmp_path / "a", said.append)
    assert len(said) == 1 and "0.00 GB" in said[0] and str(first) in said[0]
    before = first.stat().st_mtime_ns
    assert made_weights.gguf_file("tiny", "Q4_0", tmp_path / "a", said.append) == first and first.stat().st_mtime_ns == before
    assert made_weights.gguf_file("tiny", "Q4_0", tmp_path / "b").read_bytes() == first.read_bytes()
    assert made_weights.gguf_file("tiny", "Q8_0", tmp_path / "b") != first and len(said) == 1


def test_the_vocabulary_can_be_read(tmp_path):
    from slipstream.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(made_weights.gguf_file("tiny", "Q4_0", tmp_path))
    assert len(tokenizer.encode("ab", special=False)) == 2 and tokenizer.ends == (shape("tiny").vocab - 1,)


def test_a_step_reads_all_but_a_separate_embedding(tmp_path, stretched):
    spec = shape("tiny")
    per_number = {2: 18 / 32, 1: 4}
    size = {parameter.name: int(np.prod(parameter.shape) * per_number[len(parameter.shape)]) for parameter in tensors(spec)}
    assert step_bytes(made_weights.gguf_file("tiny", "Q4_0", tmp_path)) == sum(size.values()) - size["embed.weight"]
    tied = sum(int(np.prod(parameter.shape) * per_number[len(parameter.shape)]) for parameter in tensors(shape(stretched)))
    assert step_bytes(made_weights.gguf_file(stretched, "Q4_0", tmp_path)) == tied + 32 * 4  # divisors of the frequencies


def test_what_cannot_be_written_is_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="weights='Q4_1': unknown; did you mean 'Q4_0'"):
        made_weights.gguf_file("tiny", "Q4_1", tmp_path)
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        made_weights.gguf_file("tinny", "Q4_0", tmp_path)
    monkeypatch.setitem(SHAPES, "odd", {**SHAPES["tiny"], "intermediate_size": 72})
    with pytest.raises(InputError, match="down.weight of odd has 72 columns, no multiple of 32; take BF16"):
        made_weights.gguf_file("odd", "Q8_0", tmp_path)
    monkeypatch.setattr(made_weights.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    for write in (lambda: made_weights.gguf_file("tiny", "Q4_0", tmp_path), lambda: made_weights.bf16_folder("tiny", tmp_path)):
        with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
            write()
    assert not list(tmp_path.iterdir())
