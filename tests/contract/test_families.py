"""The contract of every family: a folder that transformers wrote gives transformers' logits and greedy tokens, row by row.

The table is tests/contract/families.py; a family file without a line there fails.
"""

import json
import random

import pytest
import torch

from slipstream import LLM, SamplingParams
from slipstream.arch.detect import FAMILIES
from slipstream.base import registry
from slipstream.base.errors import BackendError, CheckpointError
from slipstream.cost import scratch_bytes
from slipstream.model import load_model
from slipstream.ops import Kernels
from tests.contract.families import CASES
from tests.model.paged import Paged, Rows
from tests.quant.packings import mxfp4

ROWS = 160
TOLERANCE = 1e-4
LENGTH = 60


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two torch threads on two busy cores wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kernels():
    try:
        return Kernels(only="cpu")
    except BackendError:
        return Kernels(only="reference")


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case):
    """The model of transformers, every parameter random; norms and biases too."""
    import transformers

    kind = getattr(transformers, case.model)
    torch.manual_seed(7)
    made = kind(kind.config_class(**{**case.base, **case.config})).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.add_(torch.empty_like(parameter).uniform_(-0.4, 0.4))
            else:
                parameter.normal_(0, 0.2)
        for buffer in corrections(made):
            buffer.normal_(0, 0.2)
    return made


def corrections(model):
    """What DeepSeek-V3 learns without gradients, and transformers therefore does not count as parameters."""
    return [buffer for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias")]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp(type(model).__name__)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def oracle(model):
    def logits(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens]), use_cache=False).logits[0]

    return logits


@pytest.fixture(scope="module")
def decoder(folder, kernels):
    return load_model(folder, kernels, max_rows=ROWS, max_logit_rows=ROWS)


def some_tokens(length, seed):
    return random.Random(seed).choices(range(97), k=length)


def assert_close(found, expected):
    assert expected.abs().max() > 0.5, "the oracle's logits are too small to compare"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_the_family_file_serves_it(case, decoder):
    assert decoder.spec.family == case.family


def test_sizes_are_what_the_plan_says(model, decoder):
    spec = decoder.spec
    assert spec.parameters() == sum(parameter.numel() for parameter in [*model.parameters(), *corrections(model)])
    assert scratch_bytes(spec, ROWS, ROWS, spec.max_len, 0) == decoder.scratch_bytes


def test_prefill_at_once(oracle, decoder):
    tokens = some_tokens(LENGTH, 1)
    (logits,) = Paged(decoder).step(Rows(0, tokens))
    assert_close(logits, oracle(tokens))


def test_the_reference_kernels_agree(folder, oracle):
    tokens = some_tokens(30, 9)
    decoder = load_model(folder, Kernels(only="reference"), max_rows=30, max_logit_rows=30)
    (logits,) = Paged(decoder).step(Rows(0, tokens))
    assert_close(logits, oracle(tokens))


def test_token_by_token_and_ragged(case, oracle, decoder):
    """Five requests with shuffled pages, in pieces of 1 to 9 rows, one of them one token at a time."""
    chances = random.Random(3)
    texts = {number: some_tokens(chances.randint(case.least + 10, 45), 100 + number) for number in range(5)}
    paged, found, done = Paged(decoder, pages=80), {number: [] for number in texts}, dict.fromkeys(texts, 0)
    while waiting := [number for number in texts if done[number] < len(texts[number])]:
        work = []
        for number in chances.sample(waiting, chances.randint(1, len(waiting))):
            some = texts[number][done[number] : done[number] + (chances.randint(1, 9) if number else 1)]
            done[number] += len(some)
            work.append(Rows(number, some))
        for item, logits in zip(work, paged.step(*work), strict=True):
            found[item.request].append(logits)
    for number, tokens in texts.items():
        assert_close(torch.cat(found[number]), oracle(tokens))


def test_a_row_alone_equals_a_row_in_a_batch(decoder):
    """Promise P1, bit by bit."""
    tokens = some_tokens(30, 5)
    alone = Paged(decoder)
    expected = torch.cat([alone.step(Rows(0, [token]))[0] for token in tokens])
    crowd = Paged(decoder, seed=4, page_size=7)
    crowd.step(Rows(1, some_tokens(11, 6)))
    first = crowd.step(Rows(1, some_tokens(3, 7)), Rows(0, tokens[:19]), Rows(2, some_tokens(9, 8)))[1]
    second = crowd.step(Rows(0, tokens[19:]), Rows(2, [5]))[0]
    assert torch.equal(torch.cat([first, second]), expected)


def test_greedy_text(model, folder, case):
    prompts = [some_tokens(length, 20 + length) for length in (case.least, case.least + 13)]
    llm = LLM(folder, max_batch=2, page_size=4, kv_tokens=256, memory=2**28, max_step_tokens=64)
    outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=24))
    for prompt, output in zip(prompts, outputs, strict=True):
        with torch.no_grad():
            given = torch.tensor([prompt])
            expected = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=24, pad_token_id=0)
        assert output.outputs[0].token_ids == expected[0, len(prompt) :].tolist()


def test_gpt2_without_a_prefix(kernels, tmp_path):
    """The files of 2019 leave out the name of the whole, and hold causal masks that are no weights."""
    import transformers
    from safetensors.torch import load_file, save_file

    torch.manual_seed(8)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**CASES["gpt2"].base)).eval()
    model.save_pretrained(tmp_path)
    stored = {name.removeprefix("transformer."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    masks = {f"h.{number}.attn.bias": torch.ones(1, 1, 8, 8) for number in range(3)}
    save_file(stored | masks, tmp_path / "model.safetensors")
    decoder, tokens = load_model(tmp_path, kernels, max_rows=ROWS, max_logit_rows=ROWS), some_tokens(12, 4)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(Paged(decoder).step(Rows(0, tokens))[0], expected, rtol=0, atol=TOLERANCE)


def test_gemma_3_that_sees(tmp_path, caplog):
    """Of the larger models the language model is read; the rest is said to be left out."""
    import transformers

    torch.manual_seed(8)
    base = CASES["gemma3"]
    vision = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    config = transformers.Gemma3Config(text_config={**base.base, **base.config}, vision_config=vision, mm_tokens_per_image=4)
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    llm, tokens = LLM(tmp_path, max_batch=1, memory=2**28), some_tokens(20, 4)
    (output,) = llm.generate([tokens], SamplingParams(temperature=0.0, max_tokens=12))
    given = torch.tensor([tokens])
    expected = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=12, pad_token_id=0)
    assert output.outputs[0].token_ids == expected[0, 20:].tolist()
    assert "only its language model is read; images are not supported" in caplog.text
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": 3}))
    with pytest.raises(CheckpointError, match="text_config=3: must be a JSON object"):
        load_model(tmp_path, Kernels(only="reference"), max_rows=4, max_logit_rows=4)


def test_gpt_oss_with_experts_in_mxfp4(kernels, tmp_path):
    """As the published checkpoints are: blocks and scales of [experts, outputs, inputs] beside plain attention, in their own format."""
    import transformers
    from safetensors.torch import load_file, save_file

    torch.manual_seed(9)
    case = CASES["gpt-oss"]
    config = transformers.GptOssConfig(**{**case.base, **case.config, "hidden_size": 64, "intermediate_size": 32})
    model = transformers.GptOssForCausalLM(config).eval()
    packed = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1 if parameter.ndim == 1 and "norm" in name else 0, 0.2)
            parameter.copy_(parameter.bfloat16())
            if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
                parts, meant = zip(*(mxfp4(expert.T.contiguous()) for expert in parameter), strict=True)
                packed |= {f"{name}_{part}": torch.stack([one[part] for one in parts]) for part in ("blocks", "scales")}
                parameter.copy_(torch.stack([one.T for one in meant]))
    model.save_pretrained(tmp_path)
    plain = load_file(tmp_path / "model.safetensors")
    stored = {name: tensor.bfloat16() for name, tensor in plain.items() if f"{name}_blocks" not in packed} | packed
    save_file(stored, tmp_path / "model.safetensors")
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"quantization_config": {"quant_method": "mxfp4"}}))
    decoder, tokens = load_model(tmp_path, kernels, max_rows=ROWS, max_logit_rows=ROWS), some_tokens(30, 4)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    assert decoder.format == "bf16", "which holds every value of mxfp4"
    assert_close(Paged(decoder).step(Rows(0, tokens))[0], expected)
    save_file({name: tensor for name, tensor in stored.items() if "scales" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="down_proj_scales' is missing, which mxfp4 needs"):
        load_model(tmp_path, kernels, max_rows=ROWS, max_logit_rows=ROWS)


@pytest.mark.parametrize("quant", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["qwen2-moe", "deepseek-v3", "gpt-oss"])
def test_experts_of_a_row_do_not_depend_on_its_company(name, quant, kernels, tmp_path):
    """P1 where weights are rounded, and where a step of one row meets other experts than a crowd."""
    import transformers

    case = CASES[name]
    kind = getattr(transformers, case.model)
    torch.manual_seed(10)
    model = kind(kind.config_class(**{**case.base, **case.config}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5 if parameter.ndim == 1 else 0, 0.2)
    model.save_pretrained(tmp_path)
    decoder, tokens = load_model(tmp_path, kernels, quant=quant, max_rows=ROWS, max_logit_rows=ROWS), some_tokens(20, 5)
    alone, crowd = Paged(decoder), Paged(decoder, seed=4, page_size=7)
    expected = torch.cat([alone.step(Rows(0, [token]))[0] for token in tokens])
    assert expected.isfinite().all()
    assert torch.equal(crowd.step(Rows(1, some_tokens(40, 7)), Rows(0, tokens), Rows(2, some_tokens(9, 8)))[1], expected)


def test_every_family_has_a_case():
    assert {case.family for case in CASES.values()} == set(registry.names(FAMILIES))
