"""Hugging Face transformers: the model classes in eager mode, with their own cache."""

import time

PACKAGE = "transformers torch"
WEIGHTS = "folder"
NOTE = "bf16 weights, as before the file was quantised; eager; the likeliest token is taken in every step"


class Session:
    """See `peers/__init__.py`."""

    def __init__(self, weights, threads, batch, length):
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(weights, dtype=torch.bfloat16).eval()
        self.facts = {"version": transformers.__version__, "torch": torch.__version__, "threads": str(torch.get_num_threads())}

    def prompt(self, tokens):
        began = time.perf_counter()
        first, _ = self._step([tokens], None)
        return {"seconds": time.perf_counter() - began, "first": first[0][0]}

    def decode(self, prompts, steps):
        """Prompts are of one length."""
        tokens, cache = self._step(prompts, None)
        began = time.perf_counter()
        for _ in range(steps):
            tokens, cache = self._step(tokens, cache)
        return {"seconds": time.perf_counter() - began, "tokens": steps * len(prompts)}

    def _step(self, tokens, cache):
        """(the likeliest next tokens [sequences][1], cache)."""
        with self._torch.inference_mode():
            ids = self._torch.tensor(tokens)
            out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            return out.logits[:, -1].argmax(-1, keepdim=True).tolist(), out.past_key_values
