"""One case in a process of its own, forked from the runner (which has imported torch but never touched the device).

Owns the process: its output, its group, its exit status. What the case does is the case's business.
"""

import faulthandler
import os
import sys
import time
import traceback
from pathlib import Path

from slipstream.base import registry
from slipstream.bench.gpu.ask import CASES, Ask


def main(ask: Ask, results: Path, log: Path, again: bool) -> None:
    """Runs `ask.case`; everything it prints goes to `log`. Ends the process.

    Args:
        again: this call of the suite has started the case before.
    """
    os.setpgrp()  # so that the runner can end what the case started, too; the session stays, so nothing outlives the command
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)
    faulthandler.enable()
    print(f"--- {ask.case} {time.strftime('%H:%M:%S')}", flush=True)
    began = time.monotonic()
    from slipstream.bench.gpu import bench as benches
    from slipstream.bench.gpu.journal import FAILED, Journal

    journal = Journal(results)
    journal.write(ask.case, "start", again=again, dry=ask.dry)
    status = FAILED
    try:
        case = registry.load(CASES, ask.case, "case")
        status = benches.run(case.measure, benches.Bench(ask, journal))
    except BaseException as error:  # an import that fails is a line, too
        traceback.print_exc()
        journal.write(ask.case, "failure", point="the case", text=f"{type(error).__name__}: {str(error)[:400]}")
    journal.write(ask.case, "end", status=status, seconds=time.monotonic() - began)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # nothing of the runner's may be cleaned up by its child
