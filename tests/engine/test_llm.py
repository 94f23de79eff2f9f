"""LLM: what a user calls, on a tiny checkpoint."""

import pytest
import torch

from slipstream import LLM, BackendError, CapacityError, InputError, SamplingParams
from slipstream.arch import shape
from slipstream.base.config import Options
from slipstream.engine.resolve import resolve
from slipstream.hardware import read
from slipstream.step import DraftTree

PROMPTS = ["the quick brown fox", "naïve café", "jumps over the lazy dog and the lazy fox"]
WARM = SamplingParams(max_tokens=24, temperature=0.8, seed=5, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(folder):
    return LLM(folder)


def texts(outputs):
    return [sample.text for output in outputs for sample in output.outputs]


def test_prompts_come_in_several_forms(llm):
    ids = llm.engine.intake.tokenizer.encode(PROMPTS[0])
    whole = llm.generate(PROMPTS, WARM)
    assert [output.prompt for output in whole] == PROMPTS
    assert texts(llm.generate(PROMPTS[0], WARM)) == texts(whole)[:1]
    assert texts(llm.generate(ids, WARM)) == texts(whole)[:1]
    assert texts(llm.generate([ids, PROMPTS[1]], WARM)) == texts(whole)[:2]
    assert llm.generate(PROMPTS[::-1], [WARM] * 3)[2].outputs[0].text == texts(whole)[0]


def test_text_is_the_decoded_tokens(llm):
    for output in llm.generate(PROMPTS, WARM):
        prompt, said = output.prompt_token_ids, output.outputs[0].token_ids
        decode = llm.engine.intake.tokenizer.decode
        assert decode([*prompt, *said]) == decode(prompt) + output.outputs[0].text


def test_stream_gives_the_same_in_pieces(llm):
    whole = llm.generate(PROMPTS[1], WARM)[0].outputs[0]
    deltas = list(llm.stream(PROMPTS[1], WARM))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [token for delta in deltas for token in delta.token_ids] == whole.token_ids
    assert [delta.finish_reason for delta in deltas[-2:]] == [None, "length"]


def test_leaving_a_stream_frees_its_pages(llm):
    scheduler = llm.engine.core.scheduler
    stream = llm.stream(PROMPTS[0], SamplingParams(max_tokens=200, ignore_eos=True))
    next(stream)
    assert scheduler.has_work
    stream.close()
    assert not scheduler.has_work
    scheduler.check_integrity()


def test_stop_strings_end_the_text_wherever_they_lie(llm, folder):
    whole = llm.generate(PROMPTS[2], WARM)[0].outputs[0].text
    stop = whole[9:13]
    for drafter in ("none", Echo(llm.generate(PROMPTS[2], WARM)[0])):
        again = LLM(folder, speculate=drafter) if drafter != "none" else llm
        params = SamplingParams(max_tokens=24, temperature=0.8, seed=5, ignore_eos=True, stop=(stop, "never said"))
        output = again.generate(PROMPTS[2], params)[0].outputs[0]
        assert output.text == whole[: whole.index(stop)]
        assert output.finish_reason == "stop"


class Echo:
    """A drafter that knows one output by heart."""

    max_draft = 8

    def __init__(self, output):
        self.known = [*output.prompt_token_ids, *output.outputs[0].token_ids]

    def propose(self, contexts):
        return [DraftTree.chain(self.known[len(context.tokens) : len(context.tokens) + context.budget]) for context in contexts]

    def drop(self, request):
        return None


def test_seeds_fix_the_text_and_samples_differ(llm):
    several = SamplingParams(max_tokens=16, temperature=1.0, seed=9, n=3, ignore_eos=True)
    first, second = (llm.generate(PROMPTS[0], several)[0] for _ in range(2))
    assert texts([first]) == texts([second])
    assert len(set(texts([first]))) == 3
    free = SamplingParams(max_tokens=16, temperature=1.0, ignore_eos=True)
    assert len({llm.generate(PROMPTS[0], free)[0].outputs[0].text for _ in range(4)}) > 1


def test_logprobs_are_those_of_the_model(folder):
    """Output and prompt log-probabilities against transformers, which shares nothing with us but the checkpoint."""
    from transformers import LlamaForCausalLM

    llm = LLM(folder, kv="fp32")
    params = SamplingParams(max_tokens=12, temperature=0.9, seed=2, ignore_eos=True, logprobs=3, prompt_logprobs=2, frequency_penalty=0.5)
    output = llm.generate(PROMPTS[2], params)[0]
    said = output.outputs[0]
    tokens = [*output.prompt_token_ids, *said.token_ids]
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].log_softmax(-1)  # [tokens, vocab]
    entries = [*output.prompt_logprobs, *said.logprobs]
    assert [entry.token for entry in entries] == tokens[1:]
    for position, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(expected[position, entry.token].item(), abs=2e-3)
        assert len(entry.top) == (2 if position < len(output.prompt_logprobs) else 3)
        for token, value in entry.top:
            assert value == pytest.approx(expected[position, token].item(), abs=2e-3)
        surely = (expected[position] > entry.logprob + 4e-3).sum().item()  # bf16 weights, fp32 sums in another order: near ties are open
        perhaps = (expected[position] > entry.logprob - 4e-3).sum().item()
        assert surely < entry.rank <= perhaps


def test_prompt_logprobs_do_not_depend_on_what_is_cached(llm):
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    llm.generate(PROMPTS[2], WARM)
    first, second = (llm.generate(PROMPTS[2], params)[0] for _ in range(2))
    assert len(first.prompt_logprobs) == len(first.prompt_token_ids) - 1
    assert first.prompt_logprobs == second.prompt_logprobs
    assert first.outputs[0].token_ids == [] and first.outputs[0].finish_reason == "length"


def test_end_token_and_min_tokens(folder, llm):
    always = {0: 100.0}
    ended = llm.generate(PROMPTS[0], SamplingParams(max_tokens=8, logit_bias=always))[0].outputs[0]
    assert (ended.text, ended.finish_reason, ended.token_ids) == ("", "stop", [0])
    later = llm.generate(PROMPTS[0], SamplingParams(max_tokens=8, min_tokens=3, logit_bias=always))[0].outputs[0]
    assert len(later.token_ids) == 4 and later.token_ids[-1] == 0
    on = llm.generate(PROMPTS[0], SamplingParams(max_tokens=8, ignore_eos=True, logit_bias=always))[0].outputs[0]
    assert on.token_ids == [0] * 8 and on.finish_reason == "length"


def test_a_stop_token_is_no_part_of_the_text(llm):
    params = dict(max_tokens=12, temperature=0.8, seed=5, ignore_eos=True)
    plain = llm.generate(PROMPTS[0], SamplingParams(**params))[0].outputs[0]
    stop = plain.token_ids[6]
    at = plain.token_ids.index(stop)
    output = llm.generate(PROMPTS[0], SamplingParams(**params, stop_token_ids=(stop,)))[0].outputs[0]
    assert output.token_ids == plain.token_ids[: at + 1] and output.finish_reason == "stop"
    decode = llm.engine.intake.tokenizer.decode
    prompt = llm.engine.intake.tokenizer.encode(PROMPTS[0])
    assert decode(prompt) + output.text == decode([*prompt, *plain.token_ids[:at]])


def test_bad_words_and_allowed_tokens(llm):
    plain = llm.generate(PROMPTS[0], SamplingParams(max_tokens=12, temperature=0, ignore_eos=True))[0].outputs[0]
    word = llm.engine.intake.tokenizer.decode(plain.token_ids[4:5])
    without = llm.generate(PROMPTS[0], SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, bad_words=(word,)))[0].outputs[0]
    assert plain.token_ids[4] in plain.token_ids and plain.token_ids[4] not in without.token_ids
    only = llm.generate(PROMPTS[0], SamplingParams(max_tokens=12, allowed_token_ids=(40, 41), ignore_eos=True))[0].outputs[0]
    assert set(only.token_ids) <= {40, 41}


def test_long_requests_end_at_max_len(folder):
    llm = LLM(folder, max_len=32)
    output = llm.generate(PROMPTS[0], SamplingParams(max_tokens=100, ignore_eos=True))[0]
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 32
    assert output.outputs[0].finish_reason == "length"
    with pytest.raises(InputError, match="max_len=32"):
        llm.generate([list(range(4, 40))])


@pytest.mark.parametrize(
    "prompt, params, message",
    [
        ("", None, "empty"),
        ([], None, "empty"),
        ([3, 10**6], None, "1000000"),
        ([3, -1], None, "-1"),
        ([3], SamplingParams(stop_token_ids=(999,)), "stop_token_ids"),
        ([3], SamplingParams(logit_bias={999: 1}), "logit_bias"),
    ],
)
def test_bad_requests_are_refused_before_they_run(llm, prompt, params, message):
    with pytest.raises(InputError, match=message):
        llm.generate([prompt], params)
    assert not llm.engine.core.scheduler.has_work


def test_bad_options_name_the_way_out(folder):
    with pytest.raises(InputError, match="did you mean 'max_batch'"):
        LLM(folder, max_batches=3)
    with pytest.raises(InputError, match="threads"):
        LLM(folder, threads=0)
    with pytest.raises(InputError, match="max_step_tokens"):
        LLM(folder, max_step_tokens=8, max_batch=16)
    with pytest.raises(InputError, match="ngrams|none"):
        LLM(folder, speculate="ngrams")
    with pytest.raises(InputError, match="kv='int8': device='cuda'"):
        LLM(folder, kv="int8", device="cuda")
    with pytest.raises(InputError, match="kv='fp8': a CPU has no kernels.*int8"):
        LLM(folder, kv="fp8")
    with pytest.raises(CapacityError, match="memory"):
        LLM(folder, memory=1000)
    with pytest.raises(CapacityError, match="max_len"):
        LLM(folder, kv_tokens=32)


def test_scales_of_activations_are_a_profile_of_their_own():
    said = {}
    ways = (*(("int8", activations, None) for activations in ("32", "128", "row")), ("int4", "fp8", "reference"))
    for quant, activations, kernels in ways:
        llm = LLM("dummy:tiny:bf16", quant=quant, activations=activations, kernels=kernels, max_len=64)
        [sample] = llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4, logprobs=1))[0].outputs
        said[llm.engine.config.profile.split("/")[2]] = str(sample.logprobs)
    assert [*said] == ["kv-bf16", "a-128", "a-row", "a-fp8"] and len(set(said.values())) == 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quant": "int8", "activations": "64"}, "activations='64': must be one of 32, 128, row, fp8"),
        ({"activations": "row"}, "activations='row': bf16 weights leave activations as they are; .* take quant=int8"),
        ({"quant": "int4", "activations": "128"}, "activations='128': int4 .* computed with 32 or row or fp8; .*quant=int8, int4_128"),
        ({"quant": "q8_0", "activations": "row"}, "activations='row': q8_0 weights are computed with 32; .*quant=int8, int4, int4_64"),
        ({"quant": "int8", "activations": "row", "device": "cuda"}, "only CPUs round activations to int8, not cuda; leave it out"),
        ({"quant": "int4", "activations": "fp8"}, "activations='fp8': a CPU has no kernels .* leave it out, or take device='cuda'"),
        ({"activations": "fp8", "device": "cuda"}, "activations='fp8': bf16 weights leave .* take quant=int4"),
        ({"quant": "int8", "activations": "fp8", "device": "cuda"}, "activations='fp8': int8 .* take quant=int4, int4_zero, int4_64"),
    ],
)
def test_scales_without_a_kernel_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        resolve(Options(**options), shape("tiny"), "bf16", read(with_gpus=False), "cpu", 0)


@pytest.mark.parametrize("kv", ["fp32", "bf16", "int8", "fp8"])
def test_the_kv_pool_is_as_large_as_planned(kv):
    llm = LLM("dummy:tiny:bf16", kv=kv, max_len=64, max_batch=2, kernels="reference" if kv == "fp8" else None)
    config = llm.engine.config
    assert llm.engine.executor.runner.pool.tensor.nbytes == config.memory.kv and config.profile.endswith(f"/kv-{kv}")


@pytest.mark.parametrize("narrow, kernels, most", [("int8", None, 0.1), ("fp8", "reference", 0.4)])
def test_a_cache_of_bytes_changes_what_is_said_but_little(narrow, kernels, most):
    """Log-probabilities of a fixed text: off by what rounding 1 in 254 of a key, or 1 in 16 of a number, can do, and not as without."""
    asked = SamplingParams(max_tokens=0, prompt_logprobs=0)
    ids, found = list(range(4, 104)), []
    for kv in ("fp32", narrow):
        [out] = LLM("dummy:tiny:fp32", kv=kv, max_len=128, max_batch=1, kernels=kernels).generate([ids], asked)
        found.append(torch.tensor([entry.logprob for entry in out.prompt_logprobs if entry]))
    off = (found[0] - found[1]).abs()
    assert 0 < off.max() < most


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(folder):
    pytest.importorskip("triton", reason="without triton, kernels are missing before the device is")
    with pytest.raises(BackendError, match="device='cuda'"):
        LLM(folder, device="cuda")


@pytest.mark.parametrize("part, name", [("executor", "launch"), ("executor", "finish"), ("scheduler", "schedule"), ("scheduler", "commit")])
def test_an_interrupted_batch_leaves_nothing_behind(llm, folder, monkeypatch, part, name):
    owner, calls = getattr(llm.engine.core, part), 0
    whole = getattr(owner, name)

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        done = whole(*arguments)
        if calls == 3:
            raise KeyboardInterrupt  # after the work: its outcome is lost
        return done

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(PROMPTS, WARM)
    monkeypatch.undo()
    assert texts(llm.generate(PROMPTS, WARM)) == texts(LLM(folder).generate(PROMPTS, WARM))
    llm.engine.core.scheduler.check_integrity()


def test_progress_bar(llm, capsys):
    llm.generate(PROMPTS, WARM, progress=True)
    assert "3/3" in capsys.readouterr().out
