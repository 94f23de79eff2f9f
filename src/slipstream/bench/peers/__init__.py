"""Engines to be compared, one file each, found by its name. `docs/benchmarks.md` says how to install and read them.

A file runs in a process of its own, with the Python of the engine's own venv: it imports nothing of Slipstream (slipstream.py,
which is the engine there, excepted), and its engine only inside its Session, because the driver reads the constants here:

    PACKAGE     what pip installs
    WEIGHTS     what it reads: "gguf" for the file of the comparison, "folder" for the same shape in bf16
    NOTE        what a reader of its figures should know

    Session(weights, threads, batch, length)    loads; `batch` sequences and `length` positions of one of them at most
        facts: dict[str, str]                   versions and settings, for the record
        prompt(tokens) -> {"seconds", "first"}  one prompt from an empty cache to the logits of its last token; the likeliest one
        decode(prompts, steps) -> {"seconds", "tokens"}    `steps` tokens for each of the prompts together, prompts not counted

`_turns.py` is the loop around it, `bench/peer.py` the other end of the pipes.
"""
