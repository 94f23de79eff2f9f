"""Slipstream itself, measured like everybody else: in a process of its own, over the same pipes."""

import time

PACKAGE = "slipstream"
WEIGHTS = "gguf"
NOTE = "greedy sampling and scheduling included"
ROWS = 512  # of one step; the other engines take 512 or more


class Session:
    """See `peers/__init__.py`."""

    def __init__(self, weights, threads, batch, length):
        from slipstream import LLM, SamplingParams, __version__

        sizes = {"max_batch": batch, "max_len": length, "max_step_tokens": max(ROWS, batch)}
        self._llm = LLM(weights, threads=threads, kv="bf16", prefix_cache=False, speculate="none", **sizes)
        self._params = lambda tokens: SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        config = self._llm.engine.config
        self.facts = {"version": __version__, "profile": config.profile, "threads": str(config.threads), "rows": str(max(ROWS, batch))}

    def prompt(self, tokens):
        began = time.perf_counter()
        [output] = self._llm.generate([tokens], self._params(1))
        return {"seconds": time.perf_counter() - began, "first": output.outputs[0].token_ids[0]}

    def decode(self, prompts, steps):
        """Times the steps in which all prompts are past their first token, scheduling and text between them included."""
        core, intake = self._llm.engine.core, self._llm.engine.intake
        core.submit([ticket for prompt in prompts for ticket in intake.request(prompt, self._params(steps + 1))[1]])
        seconds, tokens, done = 0.0, 0, len(core.meter.steps)
        before = time.perf_counter()
        while core.step():
            now = time.perf_counter()
            new, done = core.meter.steps[done:], len(core.meter.steps)  # several where a step took several passes
            if all(step.tokens == step.work.rows == len(prompts) for step in new):
                seconds, tokens = seconds + now - before, tokens + sum(step.tokens for step in new)
            before = now
        if not tokens:
            raise RuntimeError("the prompts never ran together; give fewer or shorter ones, or more steps")
        return {"seconds": seconds, "tokens": tokens}
