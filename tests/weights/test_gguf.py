"""GGUF files through the whole loader: the weights they mean, the model they describe, what is refused."""

import math

import numpy as np
import pytest
import torch

from slipstream.base.errors import CheckpointError, InputError
from slipstream.weights import load
from tests.weights import gguf_files, tiny

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q5_K", "Q6_K")


def write(path, kinds=lambda name: "Q8_0", weights=None, **more):
    return gguf_files.write(path, tiny.CONFIG, tiny.random_weights() if weights is None else weights, kinds, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_unpacked_weights(tmp_path, kind):
    meant = write(tmp_path / "model.gguf", lambda name: kind)
    plain = tiny.write(tmp_path / "plain", meant)
    found, expected = tiny.logits(tmp_path / "model.gguf", quant="fp32"), tiny.logits(plain)
    assert expected.isfinite().all() and expected.std() > 0.01
    if kind == "BF16":
        assert load(tmp_path / "model.gguf").format == "bf16"
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected)


def test_against_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    meant = write(tmp_path / "model.gguf", lambda name: "Q6_K" if "down" in name else "Q4_0")
    plain = tiny.write(tmp_path / "plain", meant)
    model = transformers.LlamaForCausalLM.from_pretrained(plain, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([tiny.TOKENS])).logits[0]
    torch.testing.assert_close(tiny.logits(tmp_path / "model.gguf", quant="fp32"), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {"architectures": ["Qwen2ForCausalLM"]}),
        ("qwen3", {"architectures": ["Qwen3ForCausalLM"], "head_dim": 64}),
    ],
)
def test_architectures_against_transformers(tmp_path, architecture, changes):
    transformers = pytest.importorskip("transformers")
    weights = tiny.random_weights(**changes)
    meant = gguf_files.write(tmp_path / "model.gguf", tiny.CONFIG, weights, lambda name: "Q8_0", architecture=architecture)
    plain = tiny.write(tmp_path / "plain", meant, model_type=architecture, **changes)
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)(torch.tensor([tiny.TOKENS])).logits[0]
    assert len(weights) > 20
    torch.testing.assert_close(tiny.logits(tmp_path / "model.gguf", quant="fp32"), expected, rtol=0, atol=1e-4)


def test_a_file_is_all_that_a_run_needs(tmp_path):
    from slipstream import LLM, SamplingParams
    from slipstream.text.template import ChatTemplate

    def vocabulary(writer):
        letters = [chr(33 + number) for number in range(tiny.CONFIG["vocab_size"] - 4)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", "<s>", "</s>", "▁", *letters])
        writer.add_token_scores([0.0] * tiny.CONFIG["vocab_size"])
        writer.add_token_types([2, 3, 3, *[1] * (len(letters) + 1)])
        writer.add_chat_template("{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}")

    write(tmp_path / "model.gguf", metadata=vocabulary)
    prompt = ChatTemplate.load(tmp_path).render([{"role": "user", "content": "Hi"}])
    assert prompt == "<s>user:Hi"
    llm = LLM(tmp_path, max_len=64, max_batch=2, kernels="reference")
    tokens = llm.engine.intake.tokenizer.encode(prompt, special=False)
    of_text, of_ids = llm.generate(["user:Hi", tokens], SamplingParams(max_tokens=5, temperature=0))
    llm.close()
    assert of_text.prompt_token_ids == tokens and tokens[:2] == [1, 3] and llm.engine.config.model_name == "model"
    assert of_text.outputs[0].text == of_ids.outputs[0].text != "" and len(of_text.outputs[0].token_ids) == 5


def test_what_it_becomes_is_said_in_one_line(tmp_path, caplog):
    write(tmp_path / "model.gguf", lambda name: "Q5_0" if "down" in name else "Q8_0")
    assert load(tmp_path / "model.gguf").format == "fp32"
    (line,) = (record.getMessage() for record in caplog.records)
    assert "q5_0 (2), q8_0 (14)" in line and "unpacked to fp32" in line and "bf16 would round" in line


def test_what_a_kernel_takes_runs_as_it_is(tmp_path):
    """Q4_K_M files mix types within one fused layer; rounding of activations is all that differs from the unpacked weights."""
    write(tmp_path / "model.gguf", lambda name: "Q6_K" if "down" in name or "v_proj" in name else "Q4_K" if "mlp" in name else "Q4_0")
    found = load(tmp_path / "model.gguf")
    assert found.as_stored.of("layers.0.mixer.v.weight") == "q6_k" and found.as_stored.of("layers.1.ffn.up.weight") == "q4_k"
    assert str(found.as_stored) == "int4+q4_k+q6_k" and found.stored("layers.0.mixer.q.weight")[0] == "int4"
    whole, packed = tiny.logits(tmp_path / "model.gguf", quant="fp32"), tiny.logits(tmp_path / "model.gguf")
    assert 0 < (whole - packed).norm() / whole.norm() < 0.03


def test_bf16_where_it_holds_every_value(tmp_path):
    weights = {name: values.clamp(-1, 1) for name, values in tiny.random_weights().items()}
    for values in weights.values():
        if values.ndim == 2:
            values[:] = torch.randint(-127, 128, values.shape) / 256
            values[:, ::32] = 127 / 256
    meant = write(tmp_path / "model.gguf", lambda name: "Q8_0", weights=weights)
    found = load(tmp_path / "model.gguf")
    assert found.format == "bf16"
    table = found.get("layers.0.ffn.up.weight")
    assert table.dtype == torch.bfloat16 and torch.equal(table.float(), meant["model.layers.0.mlp.up_proj.weight"])


def test_int8_on_load(tmp_path):
    write(tmp_path / "model.gguf")
    plain, packed = tiny.logits(tmp_path / "model.gguf"), tiny.logits(tmp_path / "model.gguf", quant="int8")
    assert 0 < (plain - packed).norm() / plain.norm() < 0.05


def test_a_tied_head_and_a_folder_with_one_file(tmp_path):
    meant = write(tmp_path / "tied.gguf", weights=tiny.random_weights(tie_word_embeddings=True))
    found = load(tmp_path)
    assert found.spec.tied and found.spec.name == "tied" and "lm_head.weight" not in meant
    write(tmp_path / "other.gguf")
    with pytest.raises(InputError, match=r"several GGUF files \(other\.gguf, tied\.gguf\)"):
        load(tmp_path)


def test_the_config_that_the_metadata_means(tmp_path):
    write(tmp_path / "model.gguf")
    spec = load(tmp_path / "model.gguf").spec
    expected = load(tiny.write(tmp_path / "plain", tiny.random_weights())).spec
    assert {**_fields(spec), "name": 0} == {**_fields(expected), "name": 0}


def _fields(spec):
    return {name: getattr(spec, name) for name in spec.__slots__}


def _llama3_factors(factor=8.0):
    out = []
    for pair in range(32):
        turns = 8192 * 10000.0 ** (-pair / 32) / (2 * math.pi)
        keep = min(1, max(0, (turns - 1) / 3))
        out.append(1 / (keep + (1 - keep) / factor))
    return np.array(out, np.float32)


def test_the_rope_of_llama_3(tmp_path):
    write(tmp_path / "model.gguf", extra={"rope_freqs.weight": _llama3_factors()})
    scaling = load(tmp_path / "model.gguf").spec.ropes[0].scaling
    assert (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_len) == (8.0, 1.0, 4.0, 8192)
    write(tmp_path / "other.gguf", extra={"rope_freqs.weight": _llama3_factors() ** 1.1})
    with pytest.raises(CheckpointError, match=r"other\.gguf: rope_freqs\.weight: these factors are not those of Llama 3\.1"):
        load(tmp_path / "other.gguf")


def test_split_files(tmp_path):
    weights = tiny.random_weights()
    first = {name: values for name, values in weights.items() if "layers.1" not in name}
    second = {name: values for name, values in weights.items() if name not in first}

    def split(number):
        def add(writer):
            writer.add_uint16("split.count", 2)
            writer.add_uint16("split.no", number)

        return add

    write(tmp_path / "m-00001-of-00002.gguf", weights=first, metadata=split(0))
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002\.gguf: is missing"):
        load(tmp_path)
    write(tmp_path / "m-00002-of-00002.gguf", weights=second, metadata=split(1))
    write(tmp_path / "whole.gguf", weights=weights)
    assert torch.equal(tiny.logits(tmp_path / "m-00001-of-00002.gguf"), tiny.logits(tmp_path / "whole.gguf"))
    with pytest.raises(InputError, match=r"not the first; give the one that ends in -00001-of-00002"):
        load(tmp_path / "m-00002-of-00002.gguf")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (lambda w: w.add_expert_count(8), r"'blk\.0\.ffn_gate_inp\.weight', .* missing from the checkpoint"),
        (lambda w: w.add_float32("llama.attention.scale", 0.5), r"llama\.attention\.scale=0\.5: has no known meaning"),
        (lambda w: w.add_rope_scaling_type(gguf_files.gguf.RopeScalingType.YARN), r"yarn"),
        (lambda w: w.add_value_length(32), r"attention\.value_length=32: is not the width of a head, 64"),
    ],
)
def test_what_the_tables_do_not_know_is_refused(tmp_path, metadata, message):
    write(tmp_path / "model.gguf", metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "model.gguf")


def test_other_types_architectures_and_files_are_refused_by_name(tmp_path, shared):
    data = np.zeros((96, 84), np.uint8)
    weights = tiny.random_weights()
    del weights["lm_head.weight"]
    path = tmp_path / "model.gguf"

    def add(writer):
        writer.add_tensor("output.weight", data, raw_dtype=gguf_files.gguf.GGMLQuantizationType.Q2_K)

    write(path, weights=weights, metadata=add)
    with pytest.raises(CheckpointError, match=r"'output\.weight' is Q2_K, not supported; supported: F32, BF16, F16, MXFP4, Q4_0, .*Q8_0"):
        load(path)
    with pytest.raises(CheckpointError, match="general.architecture='bert': is not supported as GGUF; supported: deepseek2, falcon, "):
        load(shared / "data/tokenizers/gguf/ggml-vocab-bert-bge.gguf")
    with pytest.raises(CheckpointError, match="the file holds no weights"):
        load(shared / "data/tokenizers/gguf/ggml-vocab-llama-spm.gguf")
    with pytest.raises(CheckpointError, match="GGUF version 1"):
        load(shared / "data/checkpoints/stories260K/stories260K_ggufv1_f32.gguf")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(InputError, match="is a file, but not a GGUF file"):
        load(tmp_path / "text.txt")


def test_missing_and_extra_tensors_are_named(tmp_path):
    weights = tiny.random_weights()
    del weights["model.layers.1.mlp.up_proj.weight"]
    write(tmp_path / "missing.gguf", weights=weights)
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_up\.weight' is missing .* that belong to the metadata"):
        load(tmp_path / "missing.gguf")
    write(tmp_path / "extra.gguf", extra={"blk.0.attn_q_norm.weight": np.ones(64, np.float32)})
    with pytest.raises(CheckpointError, match=r"'blk\.0\.attn_q_norm\.weight' is in the checkpoint, but not in the model that the meta"):
        load(tmp_path / "extra.gguf")
