"""What the runner of an engine is asked to do, and what comes of it."""

from collections.abc import Callable

from slipstream.step import Plan, Result
from slipstream.worker.runner import Runner


def watch_steps(runner: Runner, note: Callable[[Plan, Result], object]) -> None:
    """Calls `note` at the end of every step from now on, in place of whom it called before."""

    def launch(plan: Plan) -> Callable[[], Result]:
        finish = type(runner).launch(runner, plan)

        def noted() -> Result:
            result = finish()
            note(plan, result)
            return result

        return noted

    runner.launch = launch
