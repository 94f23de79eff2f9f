"""Training a drafter: what was learned is what the engine runs, for every kind of head, and the same again from the same seed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from slipstream import LLM, CheckpointError, InputError, SamplingParams
from slipstream.arch.heads import head_config
from slipstream.engine.build import BUILTIN
from slipstream.speculate.drafter import Feed
from slipstream.train import drafter, loop
from slipstream.train.heads import BODIES
from slipstream.train.plain import PlainTarget, plain
from slipstream.train.target import EngineTarget, continued

MODEL = "dummy:tiny:fp32"
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13], [300, 301, 302, 303, 304]]
RECIPE = loop.Recipe(tokens=4 * 40 * 80, rows=4, length=40, depth=3, width=96, own=1.0, begin=4, muon_lr=0.02, adam_lr=0.01)
MORE = {"redrafter": ",tree=false"}
LEAST = {"redrafter": 2.2, "blockwise": 2.0, "streaming": 1.7}  # they see one state, and its own guesses or nothing else; or have one map
STEPS = {"firp": 10, "streaming": 10}  # they begin with good values


@pytest.fixture(autouse=True)
def one_thread():
    """Torch splits sums by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def own():
    """The greedy texts of a random model. [prompts, length]"""
    return torch.tensor(list(continued(MODEL, PROMPTS, RECIPE.length, 0.0, 1))).int().numpy()


def made(kind: str, levels, seed: int = 1):
    torch.manual_seed(seed)
    target = EngineTarget(MODEL, levels, RECIPE.rows, RECIPE.length, kind=kind)
    config = head_config(kind, target.spec, target.levels, RECIPE.depth, RECIPE.width)
    return target, config, BODIES[kind](config)


@pytest.mark.parametrize("kind", BODIES)
def test_a_text_that_was_learned_is_guessed(own, tmp_path, kind):
    target, config, body = made(kind, None)
    loop.train(body, target, own[0], own, replace(RECIPE, tokens=4 * 40 * STEPS.get(kind, 80)), say=lambda line: None)
    loop.export(body, config, tmp_path)
    llm = LLM(MODEL, speculate=f"{kind}:path={tmp_path},nodes={RECIPE.depth}{MORE.get(kind, '')}", control=False)
    said = llm.generate(PROMPTS, SamplingParams(max_tokens=32, temperature=0, ignore_eos=True))
    assert [[*prompt, *out.outputs[0].token_ids][: RECIPE.length] for prompt, out in zip(PROMPTS, said, strict=True)] == [
        text[: len(prompt) + 32].tolist() for prompt, text in zip(PROMPTS, own, strict=True)
    ]
    assert llm.engine.core.meter.tally.per_draft > LEAST.get(kind, 2.5), "of 4; an untrained head has 1.4"


@pytest.mark.parametrize("levels", [None, (0, 2)], ids=["one level", "fused"])
def test_the_engine_computes_what_was_trained(own, tmp_path, levels):
    target, config, body = made("eagle", levels)
    for parameter in body.parameters():
        parameter.data = parameter.data.bfloat16().float()  # what is written
        if parameter.ndim == 2:
            parameter.data += 0.1 * torch.randn_like(parameter).bfloat16().float()
    loop.export(body, config, tmp_path)
    body.load_state_dict({name: tensor.float() for name, tensor in load_file(tmp_path / "model.safetensors").items()})
    text = torch.tensor(own[:1]).long()
    states, _ = target.read(text)
    with torch.no_grad():
        depths = list(body.unroll(target.embedded(text), states))
    forward = LLM(MODEL, speculate=f"eagle:path={tmp_path}").engine.executor.runner.drafter.other._forward
    head, tokens = forward._decoder, text[0].tolist()
    for number, known in enumerate((2, 9, 30)):  # tokens read with true states, the first of the text aside
        assert forward.reserve(number, known + RECIPE.depth)
        feeds = [Feed(number, 0, tokens[1 : known + 1], None, states[0, :known])]
        feeds += [Feed(number, known + step, [tokens[known + 1 + step]]) for step in range(RECIPE.depth - 1)]
        for depth, feed in enumerate(feeds):
            forward.run([feed])
            normed = torch.empty(1, target.spec.hidden)
            head._norm(forward._hidden[[forward._last[number]]], normed)
            torch.testing.assert_close(normed[0], depths[depth][0, known - 1], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ["firp", "streaming"])
def test_rows_that_join_see_the_text_and_leave_it_alone(own, tmp_path, kind):
    """In the engine they come out as in training, and no key or value of a text has another bit afterwards."""
    target, config, body = made(kind, None)
    for parameter in body.parameters():
        parameter.data = (parameter.data + 0.1 * torch.randn_like(parameter)).bfloat16().float()  # what is written
    loop.export(body, config, tmp_path)
    llm = LLM(MODEL, speculate=f"{kind}:path={tmp_path}", control=False, page_size=4)
    runner, texts, seen = llm.engine.executor.runner, torch.tensor(own).long(), []
    head = runner.drafter.other._forward._decoder
    forward, every = head.forward, runner.pool.tensor[:, :, : runner.pool.pages]

    def noted(batch, pool):
        before = every.clone()
        out = forward(batch, pool)
        assert torch.equal(before, every) and out.shape[0] % RECIPE.depth == 0
        normed = torch.empty_like(out)
        target._decoder.final_norm(out.clone(), normed)
        seen.extend(zip(batch.ids[:: head.ahead].tolist(), batch.positions[:: head.ahead].tolist(), normed.split(head.ahead), strict=True))
        return out

    head.forward = noted
    llm.generate(PROMPTS, SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
    with torch.no_grad():
        states, _ = target.read(texts)
        depths = target.joined(states, body.unroll(target.embedded(texts), states))
    found = 0
    for token, place, normed in seen:
        rows = [number for number in range(len(texts)) if texts[number, place] == token]
        wanted = [torch.stack([depth[number, place - 1] for depth in depths]) for number in rows]
        assert any(torch.allclose(normed, one, rtol=0.02, atol=0.02) for one in wanted)
        found += 1
    assert found > 40


def test_two_targets_read_and_write_the_same():
    """Plain torch, which trains on a GPU, and the engine's decoder."""
    model = BUILTIN / "demo"
    assert plain(model) and not plain(MODEL)
    ours, other = PlainTarget(model, (2, 8, 9), "cpu"), EngineTarget(model, (2, 8, 9), 3, 24)
    begins = torch.tensor([[0, 300, 400, 500], [0, 12, 13, 14], [0, 2000, 2001, 7]])
    text = ours.written(begins, 24, 0.0, 1)
    assert torch.equal(text[:, :4], begins)
    for (ours_read, theirs), limit in zip(zip(ours.read(text), other.read(text), strict=True), (0.05, 0.1), strict=True):
        torch.testing.assert_close(ours_read, theirs, rtol=0.05, atol=limit)
    best = ours.read(text)[1].argmax(-1)
    assert torch.equal(text[:, 4:], best[:, 3:-1])
    torch.testing.assert_close(ours.embedded(text), other.embedded(text))
    warm = [ours.written(begins, 24, 0.8, seed) for seed in (1, 1, 2)]
    assert torch.equal(warm[0], warm[1]) and not torch.equal(warm[0], warm[2])


def test_a_run_may_end_by_the_clock(own):
    target, _, body = made("blockwise", None)
    lines = []
    loop.train(body, target, own[0], own, replace(RECIPE, seconds=0.2, tokens=10**9), lines.append)
    assert "100%" in lines[-1]


def test_every_text_has_the_opening_of_a_prompt():
    stream, recipe = np.arange(100, 1000), loop.Recipe(rows=8, length=12, own=0.0, texts=5, begin=6)
    begins = loop.beginnings(stream, recipe, [7, 8])
    windows = loop.windows(stream, begins, 0, recipe, [7, 8])
    for rows, length in ((torch.from_numpy(begins), 6), (windows, 12)):
        assert rows.shape[1] == length and rows[:, :2].tolist() == [[7, 8]] * len(rows)
        assert (rows[:, 3:] - rows[:, 2:-1] == 1).all() and (rows[:, 2:] >= 100).all()


def test_the_same_seed_gives_the_same_head(own, tmp_path):
    short = replace(RECIPE, tokens=4 * 40 * 3)
    heads = []
    for seed in (1, 1, 2):
        target, _, body = made("eagle", None, seed)
        loop.train(body, target, own[0], own, short, say=lambda line: None)
        heads.append(torch.cat([parameter.detach().flatten() for parameter in body.parameters()]))
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_run_from_books_to_a_report(tmp_path):
    """On the built-in model, whose tokenizer can read; a later run may begin with what an earlier one learned."""
    book = tmp_path / "book.txt"
    book.write_text("It was the best of times, it was the worst of times. " * 40, encoding="utf-8")
    recipe = loop.Recipe(tokens=2 * 24 * 6, rows=2, length=24, depth=2, width=32, own=0.5, texts=2, begin=8)
    lines, model = [], BUILTIN / "demo"
    first = drafter.run(model, [book], tmp_path / "first", recipe, say=lines.append)
    assert set(first["measured"]) == {"T=0.0", "T=0.8"} and "trained on" in lines[-3]
    again = drafter.run(model, [book], tmp_path / "again", recipe, start=tmp_path / "first", say=lines.append)
    assert again["start"] == first and again["last_agreement"][0] > first["last_agreement"][0]
    assert first["measured"]["T=0.0"]["tokens_per_drafted_step"] >= 1
    with pytest.raises(CheckpointError, match=r"expected shape \[48, 256\], found \[32, 256\]"):
        drafter.run(model, [book], tmp_path / "other", replace(recipe, width=48), start=tmp_path / "first", say=lines.append)


@pytest.mark.parametrize("kind", BODIES)
def test_a_head_that_cannot_work_is_refused_at_load(tmp_path, kind):
    """Its shapes are right; that something in it is not finite only shows when it runs."""
    _, config, body = made(kind, None)
    loop.export(body, config, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    option, matrix = f"{kind}:path={tmp_path}", next(name for name in tensors if "norm" not in name)
    LLM(MODEL, speculate=option, page_size=4, max_step_tokens=3, max_batch=2).close()
    for name in (next(name for name in tensors if name.endswith("norm.weight")), matrix):
        spoiled = tensors | {name: torch.full_like(tensors[name], torch.nan)}
        save_file(spoiled, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match="tried on 7 tokens of tiny: .* not finite; .*take another head"):
            LLM(MODEL, speculate=option)


def test_a_head_for_another_model_is_refused_by_what_differs(tmp_path):
    _, config, body = made("eagle", None)
    loop.export(body, config, tmp_path)
    option = f"eagle:path={tmp_path}"
    with pytest.raises(CheckpointError, match="hidden_size=64, but demo has 256"):
        LLM("dummy:demo", speculate=option)
    for field, value, message in (
        ("vocab_size", 500, "vocab_size=500, but tiny has 512"),
        ("levels", [4], "tiny has 2 layers"),
        ("levels", [], "levels=.*not empty"),
        ("drafter", "hydra", "drafter='hydra'.*eagle"),
        ("intermediate_size", 95, r"gate_proj.*expected shape \[95, 64\], found \[96, 64\]"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
        with pytest.raises(CheckpointError, match=message):
            LLM(MODEL, speculate=option)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "more.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="'more.weight': expected shape none"):
        LLM(MODEL, speculate=option)
    with pytest.raises(InputError, match="no head comes with"):
        LLM(MODEL, speculate="eagle")
    with pytest.raises(InputError, match="no config.json"):
        LLM(MODEL, speculate="eagle:path=/nowhere")


def test_eagle3_is_an_eagle_head_that_reads_three_states(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("It was the best of times, it was the worst of times. " * 40, encoding="utf-8")
    recipe = loop.Recipe(kind="eagle3", tokens=2 * 24 * 2, rows=2, length=24, depth=2, width=32, own=0.0)
    report = drafter.run(BUILTIN / "demo", [book], tmp_path / "head", recipe, say=lambda line: None)
    config = json.loads((tmp_path / "head" / "config.json").read_text(encoding="utf-8"))
    assert (config["drafter"], config["levels"]) == ("eagle", [2, 4, 8]) and report["measured"]["T=0.0"]["tokens_per_drafted_step"] >= 1


def test_a_small_model_is_trained_for_a_model(tmp_path):
    """With the tokenizer of its target, whose next tokens it learns."""
    book = tmp_path / "book.txt"
    book.write_text("It was the best of times, it was the worst of times. " * 40, encoding="utf-8")
    recipe = loop.Recipe(kind="draft", tokens=2 * 24 * 12, rows=2, length=24, width=64, own=0.0)
    first = drafter.run(BUILTIN / "demo", [book], tmp_path / "draft", recipe, say=lambda line: None)
    again = drafter.run(BUILTIN / "demo", [book], tmp_path / "again", recipe, start=tmp_path / "draft", say=lambda line: None)
    assert len(first["last_agreement"]) == 1 and again["last_agreement"][0] > first["last_agreement"][0]
    assert again["measured"]["T=0.0"]["tokens_per_drafted_step"] >= 1
    wider = replace(recipe, width=96)
    with pytest.raises(CheckpointError, match="intermediate_size=64, but this small model has 96"):
        drafter.run(BUILTIN / "demo", [book], tmp_path / "other", wider, start=tmp_path / "draft", say=lambda line: None)
