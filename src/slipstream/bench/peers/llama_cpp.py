"""llama.cpp, through the C interface that llama-cpp-python hands out: batches of many sequences, as its own benchmarks make them."""

import ctypes
import time

PACKAGE = "llama-cpp-python"
WEIGHTS = "gguf"
NOTE = "no sampling: its decode steps are fed with given tokens, which favours it"


class Session:
    """See `peers/__init__.py`. Every turn has a context of its own: an empty cache, one stream of it per sequence."""

    def __init__(self, weights, threads, batch, length):
        import llama_cpp

        self._api, self._threads = llama_cpp, threads
        llama_cpp.llama_backend_init()
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(weights.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError("llama.cpp cannot load " + weights)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        system = llama_cpp.llama_print_system_info().decode().strip()
        self.facts = {"version": llama_cpp.__version__, "threads": str(threads), "kv": "f16", "system": system}

    def prompt(self, tokens):
        context = self._context(1, len(tokens))
        batch = self._batch([(token, place, 0, place == len(tokens) - 1) for place, token in enumerate(tokens)])
        try:
            seconds = self._run(context, batch)
            logits = self._api.llama_get_logits_ith(context, -1)
            return {"seconds": seconds, "first": max(range(self._vocab), key=logits[: self._vocab].__getitem__)}
        finally:
            self._api.llama_batch_free(batch)
            self._api.llama_free(context)

    def decode(self, prompts, steps):
        context = self._context(len(prompts), max(map(len, prompts)) + steps)
        seconds = 0.0
        try:
            rows = [(t, place, number, False) for number, prompt in enumerate(prompts) for place, t in enumerate(prompt)]
            self._once(context, rows)
            for step in range(steps):
                rows = [(prompt[step % len(prompt)], len(prompt) + step, number, True) for number, prompt in enumerate(prompts)]
                seconds += self._once(context, rows)
        finally:
            self._api.llama_free(context)
        return {"seconds": seconds, "tokens": steps * len(prompts)}

    def _context(self, sequences, length):
        """Room for `length` positions of each sequence, and for all rows of one call."""
        params = self._api.llama_context_default_params()
        params.n_seq_max = sequences
        params.n_ctx = sequences * length
        params.n_batch = max(2048, sequences * length)
        params.n_threads = params.n_threads_batch = self._threads
        params.no_perf = True
        context = self._api.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError(f"llama.cpp cannot make a context of {sequences} sequences of {length} positions")
        return context

    def _batch(self, rows):
        """Rows are (token, position, sequence, whether its logits are wanted)."""
        batch = self._api.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for number, (token, position, sequence, logits) in enumerate(rows):
            batch.token[number], batch.pos[number], batch.logits[number] = token, position, logits
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, sequence
        return batch

    def _once(self, context, rows):
        batch = self._batch(rows)
        try:
            return self._run(context, batch)
        finally:
            self._api.llama_batch_free(batch)

    def _run(self, context, batch):
        """Seconds of one call."""
        began = time.perf_counter()
        status = self._api.llama_decode(context, batch)
        self._api.llama_synchronize(context)
        seconds = time.perf_counter() - began
        if status:
            raise RuntimeError(f"llama_decode of {batch.n_tokens} rows failed with status {status}")
        return seconds
