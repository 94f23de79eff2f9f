"""Vectors against transformers' last_hidden_state of the same checkpoint, and what the API promises about them."""

import math

import openai
import pytest

from tests.server.test_errors import shaped

TEXTS = ["the quick brown fox", "über 東京", "the lazy dog jumps over " * 40]  # the last one takes several steps


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_those_of_transformers(client, server, model, pooling):
    import torch
    from transformers import AutoModelForCausalLM

    answer = client.embeddings.create(model="tiny", input=TEXTS, extra_body={"pooling": pooling, "normalize": False})
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).model
    for entry, text in zip(answer.data, TEXTS, strict=True):
        ids = server.post("/tokenize", prompt=text).json()["tokens"]
        with torch.no_grad():
            states = reference(torch.tensor([ids])).last_hidden_state[0]
        expected = states.mean(0) if pooling == "mean" else states[-1]
        found = torch.tensor(entry.embedding)
        assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.999  # the KV cache is bf16
        assert found.norm() == pytest.approx(expected.norm().item(), rel=0.02)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 200


def test_vectors_do_not_depend_on_company_form_or_encoding(client, server):
    together = [entry.embedding for entry in client.embeddings.create(model="tiny", input=TEXTS).data]  # base64 inside
    for text, vector in zip(TEXTS, together, strict=True):
        ids = server.post("/tokenize", prompt=text).json()["tokens"]
        (alone,) = server.post("/v1/embeddings", input=ids, encoding_format="float").json()["data"]
        assert alone["embedding"] == pytest.approx(vector, abs=0) and alone["index"] == 0
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)
    server.until(server.idle)


def test_mistakes(server):
    assert shaped(server.post("/v1/embeddings", input="x", dimensions=8), 400)["param"] == "dimensions"
    assert shaped(server.post("/v1/embeddings", input=[]), 400)["param"] == "input"
    assert shaped(server.post("/v1/embeddings", input="x", pooling="max"), 400)["param"] == "pooling"
    assert shaped(server.post("/v1/embeddings", input="x", model="other"), 404)["code"] == "model_not_found"
