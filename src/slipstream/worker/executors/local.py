"""LocalExecutor: runs plans in this process, one after the other."""

from collections import deque
from collections.abc import Callable

from slipstream.step import Plan, Result
from slipstream.worker.runner import Runner


class LocalExecutor:
    """An Executor over one Runner."""

    def __init__(self, runner: Runner):
        self.runner = runner
        self._under_way: deque[Callable[[], Result]] = deque()

    def launch(self, plan: Plan) -> None:
        self._under_way.append(self.runner.launch(plan))

    def finish(self) -> Result:
        return self._under_way.popleft()()

    def reset(self) -> None:
        self._under_way.clear()
        self.runner.reset()

    def close(self) -> None:
        self.reset()
        del self.runner  # weights, pool and scratch go with it
