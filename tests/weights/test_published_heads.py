"""Heads that others published: what the engine computes is what their formats mean, and what does not fit is refused by name."""

import pickle

import pytest
import torch

from slipstream import LLM, CheckpointError, InputError, SamplingParams
from slipstream.arch import tensors as specified
from slipstream.arch.common import NAMES
from slipstream.arch.detect import config_to_spec
from slipstream.arch.families import deepseek
from slipstream.arch.names import checkpoint_name, place_of
from slipstream.arch.shapes import shape
from slipstream.speculate.drafter import Feed
from slipstream.train.target import EngineTarget
from slipstream.weights.dummy import Dummy
from slipstream.weights.heads import open_head
from slipstream.weights.load import load
from tests.contract.families import CASES
from tests.weights import published

MODEL, LAYERS = "dummy:tiny:fp32", 2
TINY = shape("tiny")
TEXT = [5, 9, 300, 41, 7, 7, 260, 19, 88, 402, 3, 77]
KNOWN = 8  # tokens that the head reads with true states, before it goes on by itself


def read(levels, model=MODEL) -> tuple[EngineTarget, torch.Tensor]:
    target = EngineTarget(model, levels, 1, len(TEXT))
    return target, target.read(torch.tensor([TEXT]))[0][0]  # [rows, levels * hidden]


def steps(drafter, states, model=MODEL):
    """The logits that the engine's head has after the known text, and then token by token of what follows."""
    forward = LLM(model, speculate=drafter).engine.executor.runner.drafter.other._forward
    assert forward.reserve(0, len(TEXT))
    feeds = [Feed(0, 0, TEXT[1 : KNOWN + 1], None, states[:KNOWN])]
    feeds += [Feed(0, place - 1, [TEXT[place]]) for place in range(KNOWN + 1, len(TEXT))]
    for feed in feeds:
        forward.run([feed])
        yield forward._decoder.logits(forward._hidden, torch.tensor([len(feed.tokens) - 1], dtype=torch.int32))[0].clone()


def unrolled(run, embedded, states):
    """The states that come out where the head goes on from its own, computed anew from the beginning each time."""
    inputs = states[:KNOWN]
    for place in range(KNOWN, len(TEXT)):
        out = run(embedded[1 : place + 1], inputs)
        yield out[-1:]
        inputs = torch.cat([inputs, out[-1:]])


def close(found, expected):
    seen = torch.isfinite(expected)
    assert torch.equal(torch.isfinite(found), seen)
    torch.testing.assert_close(found[seen], expected[seen], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_eagle(tmp_path, file):
    config, tensors = published.eagle()
    published.save(tmp_path, config, tensors, file)
    target, states = read((LAYERS + 1,))
    embedded = target.embedded(torch.tensor(TEXT))
    expected = unrolled(lambda e, s: published.run_eagle(tensors, e, s), embedded, states)
    for found, state in zip(steps(f"eagle:{tmp_path}", states), expected, strict=True):
        close(found, target.logits(state)[0])


@pytest.mark.parametrize("form", ["midlayer", "layers.0"])
def test_eagle3(tmp_path, form):
    """One layout counts layers by their output, the other by their input, and feeds the layer another stream."""
    config, tensors = published.eagle3(3, form.replace(".", "__"))
    if form == "midlayer":
        config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [0, 1]}
        tensors["fc.weight"] = tensors["fc.weight"][:, : 2 * published.HIDDEN].contiguous()
        levels = (1, 2)
    else:
        levels = (0, 1, 2)
    published.save(tmp_path, config, tensors)
    target, states = read(levels)
    joined = states @ tensors["fc.weight"].T
    expected = unrolled(
        lambda e, s: published.run_eagle3(tensors, form, e, s, form != "midlayer"), target.embedded(torch.tensor(TEXT)), joined
    )
    for found, state in zip(steps(f"eagle:{tmp_path}", states), expected, strict=True):
        close(found, published.logits_eagle3(tensors, published.rms(state, tensors["norm.weight"]))[0])


def test_eagle3_that_goes_on_from_what_is_normed(tmp_path):
    config, tensors = published.eagle3(3)
    published.save(tmp_path, {**config, "norm_output": True, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}, tensors)
    target, states = read((0, 1, 2))
    joined, embedded, norm = states @ tensors["fc.weight"].T, target.embedded(torch.tensor(TEXT)), tensors["norm.weight"]
    expected = unrolled(lambda e, s: published.rms(published.run_eagle3(tensors, "midlayer", e, s, False), norm), embedded, joined)
    for found, state in zip(steps(f"eagle:{tmp_path}", states), expected, strict=True):
        close(found, published.logits_eagle3(tensors, state)[0])


@pytest.mark.parametrize(("file", "converted"), [("medusa_lm_head.pt", False), ("medusa_lm_head.safetensors", False), ("", True)])
def test_medusa(tmp_path, file, converted):
    """The number of heads is the file's, not the config's."""
    config, tensors = published.medusa(3, converted)
    published.save(tmp_path, config, tensors, file or "model.safetensors")
    _, states = read((LAYERS + 1,))
    forward = LLM(MODEL, speculate=f"medusa:{tmp_path}").engine.executor.runner.drafter.other._forward
    assert forward.ahead == 3 and forward.reserve(0, 1)
    forward.run([Feed(0, 0, TEXT[KNOWN : KNOWN + 1], None, states[KNOWN - 1 : KNOWN])])
    rows = torch.arange(3, dtype=torch.int32) * forward._apart
    for depth, found in enumerate(forward._decoder.logits(forward._hidden, rows)):
        close(found, published.logits_medusa(tensors, states[KNOWN - 1], depth, converted))


def test_redrafter(tmp_path):
    config, tensors = published.redrafter()
    published.save(tmp_path, config, tensors)
    target, states = read((LAYERS + 1,))
    forward = LLM(MODEL, speculate=f"redrafter:{tmp_path}").engine.executor.runner.drafter.other._forward
    assert forward.reserve(0, len(TEXT))
    expected = published.logits_redrafter(tensors, target.embedded(torch.tensor(TEXT[KNOWN:])), states[KNOWN - 1])
    for place, logits in zip(range(KNOWN, len(TEXT)), expected, strict=True):
        forward.run([Feed(0, place - KNOWN, [TEXT[place]], None, states[KNOWN - 1 : KNOWN] if place == KNOWN else None)])
        close(forward._decoder.logits(forward._hidden, torch.zeros(1, dtype=torch.int32))[0], logits)


def test_mtp_from_the_models_own_checkpoint(tmp_path):
    tensors = {checkpoint_name(NAMES, wanted.name): Dummy(TINY, "fp32").get(wanted.name).clone() for wanted in specified(TINY)}
    module, width = published.mtp(), TINY.layers[0].ffn.width  # the module's layer is as the model's
    config = {**published.LLAMA, "intermediate_size": width, "num_hidden_layers": LAYERS, "tie_word_embeddings": TINY.tied}
    made = published.drawn(7, gate=(width, published.HIDDEN), up=(width, published.HIDDEN), down=(published.HIDDEN, width))
    module |= {f"mtp.layers.0.mlp.{part}_proj.weight": tensor for part, tensor in made.items()}
    published.save(tmp_path, config, {**tensors, **module})
    target, states = read((LAYERS + 1,), tmp_path)
    embedded = target.embedded(torch.tensor(TEXT))
    expected = unrolled(lambda e, s: published.run_mtp(module, e, s), embedded, states)
    for found, state in zip(steps("mtp", states, tmp_path), expected, strict=True):
        close(found, target.logits(state)[0])
    published.save(tmp_path, config, tensors)
    with pytest.raises(InputError, match="no module that guesses ahead"):
        LLM(tmp_path, speculate="mtp")


def test_the_layer_behind_the_last_is_read_as_the_family_reads_its_layers(tmp_path):
    """DeepSeek's, with rotated numbers in pairs and experts: as if the model had a layer more."""
    case = CASES["deepseek-v3"]
    config = {**case.base, **case.config, "architectures": [case.model]}
    longer = {**config, "num_hidden_layers": config["num_hidden_layers"] + 1}
    spec, whole = config_to_spec(config), config_to_spec(longer)
    made, prefix, hidden = torch.Generator().manual_seed(8), f"model.layers.{len(spec.layers)}.", spec.hidden
    tensors = {}
    for parameter in specified(whole):
        place = place_of(deepseek, whole, parameter)
        if place.name not in tensors:
            tensors[place.name] = torch.randn(place.shape, generator=made) * place.shape[-1] ** -0.5
    published.save(tmp_path / "longer", longer, tensors)
    more = {"enorm": (hidden,), "hnorm": (hidden,), "shared_head.norm": (hidden,), "eh_proj": (hidden, 2 * hidden)}
    more |= {"shared_head.head": (spec.vocab, hidden), "embed_tokens": (spec.vocab, hidden)}
    module = {f"{prefix}{name}.weight": torch.randn(shape, generator=made) for name, shape in more.items()}
    published.save(tmp_path / "own", config, {**tensors, **module})
    head, weights = open_head(tmp_path / "own", "mtp", spec)
    expected = load(tmp_path / "longer")
    for parameter in head.tensors():
        if parameter.name.startswith("layers."):
            assert torch.equal(weights.get(parameter.name), expected.get(parameter.name.replace("layers.0", f"layers.{len(spec.layers)}")))
    assert torch.equal(weights.get("fuse_state.weight"), module[f"{prefix}eh_proj.weight"][:, hidden:])
    params, said = SamplingParams(max_tokens=20, temperature=0.8, seed=3, ignore_eos=True), []
    for drafter in ("none", "mtp", "mtp:tree=true,nodes=8"):
        llm = LLM(tmp_path / "own", speculate=drafter, control=False)
        said.append(llm.generate([[5, 6, 7, 8]], params)[0].outputs[0].token_ids)
    assert said[0] == said[1] == said[2] and llm.engine.core.meter.tally.drafted > 0


@pytest.mark.parametrize("kind", ["eagle", "eagle3", "medusa", "redrafter"])
def test_texts_are_the_same_with_them(tmp_path, kind):
    makers = {"eagle3": lambda: published.eagle3(3), "medusa": lambda: published.medusa(3)}
    config, tensors = makers.get(kind, getattr(published, kind))()
    config["eagle_aux_hidden_state_layer_ids"] = [0, 1, 2]
    published.save(tmp_path, config, tensors)
    prompts, params = [[5, 6, 7, 8], [9, 10, 11] * 5], SamplingParams(max_tokens=24, temperature=0.8, seed=3, ignore_eos=True)
    said = []
    for drafter in ("none", f"{kind.removesuffix('3')}:{tmp_path},nodes=5"):
        llm = LLM(MODEL, speculate=drafter, control=False)
        said.append([out.outputs[0].token_ids for out in llm.generate(prompts, params)])
    assert said[0] == said[1]
    assert llm.engine.core.meter.tally.drafted > 0


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


def test_what_does_not_fit_is_refused(tmp_path, capsys):
    config, tensors = published.eagle()

    def refused(message, kind="eagle", model=MODEL, error=CheckpointError):
        with pytest.raises(error, match=message):
            LLM(model, speculate=f"{kind}:{tmp_path}")

    published.save(tmp_path, config, tensors)
    refused("hidden_size=64, but demo has 256", model="dummy:demo")
    refused("kind 'eagle'; use speculate='eagle:path=", "medusa", error=InputError)
    published.save(tmp_path, {**config, "vocab_size": 500}, tensors)
    refused("vocab_size=500, but tiny has 512")
    published.save(tmp_path, config, {**tensors, "layers.1.self_attn.q_proj.weight": torch.zeros(2)})
    refused(r"'layers.1.self_attn.q_proj.weight' belongs to no part")
    published.save(tmp_path, config, {**tensors, "fc.weight": torch.zeros(64, 192)})
    refused(r"'fc.weight': expected shape \[64, 128\], found \[64, 192\]")
    published.save(tmp_path, config, {"emb.0.weight": torch.zeros(2, 2)})
    refused("no head in a known format")

    config, tensors = published.eagle3(3)
    published.save(tmp_path, config, tensors)
    refused(r"levels=\[2, 1, -1\]: tiny has 2 layers")
    published.save(tmp_path, {**config, "fc_norm": True}, tensors)
    refused("fc_norm=True: is not supported")
    config, tensors = published.eagle3(3, "layers__0")
    published.save(tmp_path, config, {**tensors, "d2t": tensors["d2t"].flip(0)})
    refused("d2t must lead to ever higher tokens")
    config["speculators_config"]["verifier"]["architectures"] = ["Qwen3ForCausalLM"]
    published.save(tmp_path, config, tensors)
    refused("somebody/a-llama, but tiny is of the family 'llama'")

    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"fc.weight": Evil()}, protocol=2))
    refused("cannot be read as tensors alone")
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    refused("tensors by name and nothing else")
    assert "never run" not in capsys.readouterr().out
