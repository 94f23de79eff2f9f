"""OpenVINO GenAI: its pipeline with continuous batching, which reads GGUF files of the llama and qwen architectures itself."""

import time

PACKAGE = "openvino-genai"
WEIGHTS = "gguf"
NOTE = "greedy sampling included; activations, and KV in u8, as it chooses"
ROWS = 512


class Session:
    """See `peers/__init__.py`."""

    def __init__(self, weights, threads, batch, length):
        import openvino
        import openvino_genai

        self._openvino, self._genai, self._numbers = openvino, openvino_genai, iter(range(1 << 62))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = max(ROWS, batch), batch
        scheduler.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(weights, scheduler, "CPU", properties)
        self.facts = {"version": openvino_genai.get_version(), "threads": str(threads), "rows": str(max(ROWS, batch))}

    def prompt(self, tokens):
        [handle] = self._add([tokens], 1)
        began = time.perf_counter()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "first": handle.read_all()[0].generated_ids[0]}

    def decode(self, prompts, steps):
        """All prompts go in with the first steps; timed are those after every one of them has its first token."""
        handles = self._add(prompts, steps + 1)
        while any(handle.get_status() == self._genai.GenerationStatus.RUNNING and not handle.can_read() for handle in handles):
            self._pipeline.step()
        left = sum(steps + 1 - len(next(iter(handle.read().values())).generated_ids) for handle in handles)
        began = time.perf_counter()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return {"seconds": time.perf_counter() - began, "tokens": left}

    def _add(self, prompts, tokens):
        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
        return [self._pipeline.add_request(next(self._numbers), self._tensor(prompt), config) for prompt in prompts]

    def _tensor(self, tokens):
        import numpy

        return self._openvino.Tensor(numpy.array([tokens], numpy.int64))
