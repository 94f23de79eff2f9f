"""A real trained model as a GGUF file, weights and vocabulary: it continues a text exactly as its author documents."""

import json

import pytest
import torch
from tokenizers import Tokenizer

from slipstream import LLM, SamplingParams
from tests.tools import llama2c
from tests.weights import gguf_files


@pytest.fixture(scope="module")
def made(shared, tmp_path_factory):
    """Function: ggml type of a matrix -> file."""
    source, folder = shared / "data/checkpoints/stories260K", tmp_path_factory.mktemp("stories")
    llama2c.convert(source / "stories260K_legacy_f32.bin", source / "tok512.bin", folder / "hf")
    config = json.loads((folder / "hf/config.json").read_text())
    vocab = Tokenizer.from_file(str(folder / "hf/tokenizer.json")).get_vocab()
    from safetensors.torch import load_file

    weights = load_file(folder / "hf/model.safetensors")

    def vocabulary(writer):
        tokens = sorted(vocab, key=vocab.get)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    def make(kinds, name):
        gguf_files.write(folder / name, config, weights, kinds, metadata=vocabulary)
        return folder / name

    return make


def continued(path, tokens, **options):
    torch.set_num_threads(1)
    llm = LLM(path, kernels="reference", max_batch=1, **options)
    (output,) = llm.generate([""], SamplingParams(max_tokens=tokens, temperature=0))
    llm.close()
    assert output.prompt_token_ids == [1]
    return output.outputs[0].text


def test_greedy_text(made, shared):
    expected = (shared / "data/checkpoints/stories260K/expected_greedy.txt").read_text().rstrip("\n")
    text = continued(made(lambda name: "F32", "stories.gguf"), 60)
    assert len(text) > 100 and expected.startswith(text)


def test_q8_0_tells_the_same_beginning(made, shared):
    expected = (shared / "data/checkpoints/stories260K/expected_greedy.txt").read_text()
    text = continued(made(lambda name: "F32" if "down_proj" in name else "Q8_0", "stories-q8.gguf"), 20)
    assert expected.startswith(text[:40])
