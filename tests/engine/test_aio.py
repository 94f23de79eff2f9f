"""AsyncLLM: concurrency, cancellation, failure."""

import asyncio

import pytest

from slipstream import LLM, AsyncLLM, BackendError, SamplingParams


def params(index: int) -> SamplingParams:
    return SamplingParams(max_tokens=5 + index % 17, temperature=0.9, seed=index, ignore_eos=True)


@pytest.fixture
def engine(folder):
    llm = AsyncLLM(folder, max_batch=8)
    yield llm
    llm.close()


async def collect(llm, prompt, own):
    return "".join([delta.text async for delta in llm.generate(prompt, own)])


def test_many_at_once_say_what_each_says_alone(engine, folder):
    prompts = [f"the quick brown fox number {index}" for index in range(24)]

    async def everyone():
        return await asyncio.gather(*(collect(engine, prompt, params(index)) for index, prompt in enumerate(prompts)))

    expected = LLM(folder).generate(prompts, [params(index) for index in range(24)])
    assert asyncio.run(everyone()) == [output.outputs[0].text for output in expected]


async def idle(llm) -> None:
    for _ in range(200):
        if not llm.engine.core.scheduler.has_work:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("requests were still running two seconds later")


def test_leaving_and_cancelling_end_a_request(engine):
    async def leave():
        async for _ in engine.generate("the lazy dog", SamplingParams(max_tokens=200, ignore_eos=True)):
            break
        task = asyncio.create_task(collect(engine, "the lazy dog", SamplingParams(max_tokens=200, ignore_eos=True)))
        await asyncio.sleep(0)  # it has begun, and a tiny model says 200 tokens in a few milliseconds
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(engine)

    asyncio.run(leave())
    engine.engine.core.scheduler.check_integrity()


def test_a_broken_engine_tells_everyone_who_waits(engine, monkeypatch):
    def broken(plan):
        raise RuntimeError("the device is gone")

    async def run():
        monkeypatch.setattr(engine.engine.executor, "launch", broken)
        results = await asyncio.gather(*(collect(engine, "fox", params(index)) for index in range(3)), return_exceptions=True)
        assert all(isinstance(result, BackendError) for result in results)
        with pytest.raises(BackendError, match="the device is gone"):
            await collect(engine, "fox", params(0))

    asyncio.run(run())


def test_closing_ends_what_runs(folder):
    llm = AsyncLLM(folder)

    async def run():
        task = asyncio.create_task(collect(llm, "fox", SamplingParams(max_tokens=240, ignore_eos=True)))
        await asyncio.sleep(0.01)
        await asyncio.to_thread(llm.close)
        with pytest.raises(BackendError):
            await task

    asyncio.run(run())
