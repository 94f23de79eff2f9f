"""The `openai` client against a real server: what users' programs do."""

import asyncio

import openai
import pytest

from slipstream import LLM, SamplingParams
from tests.server.conftest import CONTEXT
from tests.server.harness import events

HELLO = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "the quick brown fox"}]}]
RENDERED = "<system>be brief\n<user>the quick brown fox\n<assistant>"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def alone(model):
    """What the engine says without a server: (prompt, params) -> output."""
    llm = LLM(model, max_len=CONTEXT, max_batch=8)
    yield lambda prompt, **params: llm.generate([prompt], SamplingParams(**params))[0]
    llm.close()


def test_models(client, server):
    (card,) = client.models.list().data
    assert card.id == "tiny" and card.max_model_len == CONTEXT
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("tiny/other")
    assert error.value.code == "model_not_found"


def test_completion_is_what_the_engine_says_alone(client, alone):
    expected = alone("the quick", max_tokens=12, temperature=0)
    answer = client.completions.create(model="tiny", prompt="the quick", max_tokens=12, temperature=0)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-") and answer.system_fingerprint
    assert answer.choices[0].text == expected.outputs[0].text
    assert answer.choices[0].finish_reason == expected.outputs[0].finish_reason
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)
    assert answer.usage.completion_tokens == len(expected.outputs[0].token_ids)


def test_max_tokens_is_16_unless_given(client):
    assert client.completions.create(model="tiny", prompt="the", extra_body={"ignore_eos": True}).usage.completion_tokens == 16


def test_chat_goes_through_the_template(client, alone):
    expected = alone(RENDERED, max_tokens=10, temperature=0)
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_completion_tokens=10, temperature=0)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == expected.outputs[0].text
    assert answer.usage.prompt_tokens == len(expected.prompt_token_ids)


def test_a_chat_without_a_limit_may_fill_the_context(client):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, stop=["the", "a", "e"], extra_body={"stop_token_ids": list(range(1, 300))}
    )
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == 1


def test_streams_add_up_to_the_whole(client):
    settings = {"model": "tiny", "seed": 5, "temperature": 0.9, "n": 2, "max_tokens": 20}
    whole = client.completions.create(prompt="the quick", **settings)
    texts, reasons, usage = ["", ""], [None, None], None
    for chunk in client.completions.create(prompt="the quick", stream=True, stream_options={"include_usage": True}, **settings):
        assert chunk.id.startswith("cmpl-") and chunk.model == "tiny"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.text for choice in whole.choices] and reasons == [choice.finish_reason for choice in whole.choices]
    assert usage.completion_tokens == whole.usage.completion_tokens and usage.total_tokens == whole.usage.total_tokens


def test_chat_stream_has_role_first_reason_last_and_usage_after(server):
    body = {"messages": HELLO, "max_tokens": 6, "n": 2, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    response = server.post("/v1/chat/completions", **body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8" and response.headers["x-accel-buffering"] == "no"
    assert response.text.endswith("data: [DONE]\n\n")
    *chunks, last = events(response)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"} and len({chunk["id"] for chunk in [*chunks, last]}) == 1
    assert all(chunk["usage"] is None for chunk in chunks) and last["choices"] == [] and last["usage"]["completion_tokens"] == 12
    for index in range(2):
        own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert own[-1]["delta"] == {} and own[-1]["finish_reason"] == "length"
        assert all(choice["finish_reason"] is None and "role" not in choice["delta"] for choice in own[1:-1])


def test_n_samples_differ_and_a_seed_repeats_them(client, alone):
    settings = {"model": "tiny", "prompt": "the lazy dog", "n": 3, "max_tokens": 15, "seed": 11}
    first, second = (client.completions.create(**settings) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert len(set(texts)) == 3 and [choice.index for choice in first.choices] == [0, 1, 2]
    assert texts == [choice.text for choice in second.choices]
    assert texts == [output.text for output in alone("the lazy dog", n=3, max_tokens=15, seed=11).outputs]
    assert client.completions.create(**{**settings, "seed": -1}).choices[0].text != texts[0]


def test_stop_strings_end_the_text_before_them(client, alone):
    text = alone("the quick", max_tokens=40, temperature=0, ignore_eos=True).outputs[0].text
    stop = text[10:13]
    answer = client.completions.create(
        model="tiny", prompt="the quick", max_tokens=40, temperature=0, stop=[stop, "never there"], extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].text == text[: text.index(stop)] and answer.choices[0].finish_reason == "stop"


def test_prompts_as_text_ids_and_batches_of_both(client, server):
    ids = server.post("/tokenize", prompt="the quick").json()["tokens"]
    settings = {"model": "tiny", "max_tokens": 6, "seed": 3, "n": 2}
    text = client.completions.create(prompt="the quick", **settings)
    assert [c.text for c in client.completions.create(prompt=ids, **settings).choices] == [c.text for c in text.choices]
    batch = client.completions.create(prompt=[ids, [5], ids], **settings)
    assert [choice.index for choice in batch.choices] == list(range(6))
    assert [c.text for c in batch.choices[:2]] == [c.text for c in batch.choices[4:]] == [c.text for c in text.choices]
    assert batch.usage.prompt_tokens == 2 * len(ids) + 1
    assert len(client.completions.create(prompt=["the", "quick"], **settings).choices) == 4


def test_completion_logprobs(client, alone):
    expected = alone("the quick", max_tokens=5, temperature=0, logprobs=2, ignore_eos=True).outputs[0]
    found = client.completions.create(
        model="tiny", prompt="the quick", max_tokens=5, temperature=0, logprobs=2, extra_body={"ignore_eos": True}
    ).choices[0].logprobs
    assert found.token_logprobs == pytest.approx([entry.logprob for entry in expected.logprobs])
    assert len(found.tokens) == len(found.text_offset) == 5 and found.text_offset[0] == 0
    for logprob, likely in zip(found.token_logprobs, found.top_logprobs, strict=True):
        assert logprob == max(likely.values()) and len(likely) <= 2  # two tokens may be written alike
    assert client.completions.create(model="tiny", prompt="the", max_tokens=1, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_chat_logprobs(client):
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3, extra_body={"ignore_eos": True}
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 8 and all(len(entry.top_logprobs) == 3 for entry in content)
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in content)
    text = bytes(byte for entry in content for byte in entry.bytes).decode("utf-8", "replace")
    assert text == answer.choices[0].message.content
    streamed = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=8, temperature=0, logprobs=True, stream=True, extra_body={"ignore_eos": True}
    )
    entries = [entry for chunk in streamed for choice in chunk.choices if choice.logprobs for entry in choice.logprobs.content]
    assert [entry.logprob for entry in entries] == [entry.logprob for entry in content]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_scoring_as_lm_eval_does_it(client, server, alone, max_tokens):
    """echo + logprobs on token ids; lm-eval sums token_logprobs[context:] and compares them with the largest of top_logprobs."""
    ids = server.post("/tokenize", prompt="the quick brown fox jumps").json()["tokens"]
    answer = client.completions.create(
        model="tiny", prompt=[ids, ids[:3]], max_tokens=max_tokens, temperature=0, logprobs=1, echo=True, seed=1234
    )
    for choice, prompt in zip(answer.choices, (ids, ids[:3]), strict=True):
        expected = alone(prompt, max_tokens=1, temperature=0, prompt_logprobs=1).prompt_logprobs
        found = choice.logprobs
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(prompt) + max_tokens
        assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
        assert found.token_logprobs[1 : len(prompt)] == pytest.approx([entry.logprob for entry in expected])
        greedy = [value == max(likely.values()) for value, likely in zip(found.token_logprobs[1:], found.top_logprobs[1:], strict=True)]
        assert greedy[: len(prompt) - 1] == [entry.rank == 1 for entry in expected]
    assert answer.choices[0].text.startswith("the quick brown fox jumps") and answer.choices[0].finish_reason == "length"
    assert (answer.choices[0].text == "the quick brown fox jumps") == (max_tokens == 0)


def test_echo_in_a_stream_is_the_whole_in_parts(server):
    body = {"prompt": "the quick", "max_tokens": 5, "seed": 2, "n": 2, "echo": True, "logprobs": 1}
    whole = server.post("/v1/completions", **body).json()["choices"]
    texts, tokens = ["", ""], [[], []]
    for chunk in events(server.post("/v1/completions", **body, stream=True)):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
            tokens[choice["index"]] += zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True)
    assert texts == [choice["text"] for choice in whole] and texts[0].startswith("the quick")
    expected = [list(zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True)) for choice in whole]
    assert tokens == expected


def test_tokenize_and_detokenize(server):
    found = server.post("/tokenize", prompt="the quick café", return_token_strs=True).json()
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) and found["max_model_len"] == CONTEXT
    assert server.post("/detokenize", tokens=found["tokens"]).json() == {"prompt": "the quick café"}
    talk = server.post("/tokenize", messages=HELLO).json()["tokens"]
    assert server.post("/detokenize", tokens=talk).json()["prompt"] == RENDERED


def test_cached_prompt_tokens_are_told(client):
    prompt = "the lazy dog jumps over the naïve café " * 4
    client.completions.create(model="tiny", prompt=prompt, max_tokens=2)
    usage = client.completions.create(model="tiny", prompt=prompt, max_tokens=2).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_leaving_a_stream_or_a_call_frees_its_pages(client, server):
    """That it takes the engine one step is in test_reception; here, that the client's way of leaving reaches it."""
    endless = {"model": "tiny", "prompt": "the quick", "max_tokens": 30000, "n": 2, "extra_body": {"ignore_eos": True}}
    stream = client.completions.create(stream=True, **endless)
    for _ in range(3):
        next(stream)
    server.until(lambda: server.status()["running"] == 2)
    stream.close()
    server.until(server.idle, 2)

    async def impatient():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as other:
            call = asyncio.create_task(other.completions.create(**endless))
            await asyncio.to_thread(server.until, lambda: server.status()["running"] == 2)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    asyncio.run(impatient())
    server.until(server.idle, 2)
    steps = server.metric("engine_steps_total")
    assert client.completions.create(model="tiny", prompt="the", max_tokens=1).usage.completion_tokens == 1
    server.until(lambda: server.metric("engine_steps_total") > steps)
    assert server.metric("engine_steps_total") - steps <= 3  # nothing else was running


def test_64_at_once_say_what_each_says_alone(server, alone):
    prompts = [f"the quick brown fox number {index}" for index in range(64)]
    settings = [{"max_tokens": 4 + index % 13, "temperature": 0.8, "seed": index} for index in range(64)]

    async def everyone():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            calls = (client.completions.create(model="tiny", prompt=p, **s) for p, s in zip(prompts, settings, strict=True))
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    assert asyncio.run(everyone()) == [alone(prompt, **own).outputs[0].text for prompt, own in zip(prompts, settings, strict=True)]


def test_a_prediction_is_a_draft_and_is_counted(client):
    """A bias makes the answer one word again and again, so that its text is tokenised as it was made."""
    [the] = client.post("/../tokenize", body={"prompt": " the", "add_special_tokens": False}, cast_to=object)["tokens"]
    asked = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 40, "temperature": 0, "logit_bias": {str(the): 100}}
    plain = client.chat.completions.create(**asked)
    assert plain.usage.completion_tokens_details.accepted_prediction_tokens == 0
    for _ in range(10):  # how many guesses are checked is decided by measured times, so it may be none
        predicted = client.chat.completions.create(**asked, prediction={"type": "content", "content": plain.choices[0].message.content})
        assert predicted.choices[0].message.content == plain.choices[0].message.content
        details = predicted.usage.completion_tokens_details
        if details.accepted_prediction_tokens:
            break
    assert details.accepted_prediction_tokens > 0 and details.rejected_prediction_tokens >= 0

    parts = [{"type": "text", "text": " the the"}, {"type": "text", "text": " the"}]
    stream = client.chat.completions.create(
        **asked, prediction={"type": "content", "content": parts}, stream=True, stream_options={"include_usage": True}
    )
    *_, last = stream
    assert last.usage.completion_tokens == 40 and last.usage.completion_tokens_details.rejected_prediction_tokens >= 0
    text = client.completions.create(model="tiny", prompt="the", max_tokens=8, temperature=0, extra_body={"prediction": " the the the"})
    assert text.choices[0].text == client.completions.create(model="tiny", prompt="the", max_tokens=8, temperature=0).choices[0].text
