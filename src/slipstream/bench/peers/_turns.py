"""What runs in a peer's process: one JSON object per line in, one per line out, until the input ends.

    {"do": "load", ...}  {"do": "prompt", ...}  {"do": "decode", ...}    the other keys are the arguments
    {"answer": {...}}  or  {"error": "..."}

Owns the pipes: what the engine itself prints goes to stderr. Runs under any Python, without Slipstream.
"""

import importlib.util
import json
import os
import sys


def main(path):
    """Answers the tasks on stdin with the Session of the file at `path`."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # its last words are wanted if it never comes back
    session = None
    for line in sys.stdin:
        task = json.loads(line)
        do = task.pop("do")
        try:
            if do == "load":
                session = _module(path).Session(**task)
                answer = {"answer": session.facts}
            else:
                answer = {"answer": getattr(session, do)(**task)}
        except Exception as error:  # the driver says it, with the engine's name
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _module(path):
    spec = importlib.util.spec_from_file_location("peer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(sys.argv[1])
