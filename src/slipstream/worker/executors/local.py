"""LocalExecutor: runs plans in this process, one after the other."""

from collections import deque

from slipstream.step import Plan, Result
from slipstream.worker.runner import Runner


class LocalExecutor:
    """An Executor over one Runner. The CPU works while `launch` is called, so `finish` only hands over."""

    def __init__(self, runner: Runner):
        self.runner = runner
        self._results: deque[Result] = deque()

    def launch(self, plan: Plan) -> None:
        self._results.append(self.runner.run(plan))

    def finish(self) -> Result:
        return self._results.popleft()

    def reset(self) -> None:
        self._results.clear()
        self.runner.reset()

    def close(self) -> None:
        self.reset()
        del self.runner  # weights, pool and scratch go with it
