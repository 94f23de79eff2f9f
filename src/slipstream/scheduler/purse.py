"""The purse that a drafting model lives on: what its guesses cost and what they saved, as they were and not as they were expected to be.

Owns the promise that a model never costs more than a small share of the time. Predictions decide whether it drafts
(scheduler/controller.py); where they are wrong time and again, the purse is empty before long, and the model sleeps until the share
that it is allowed has made up for what it took. The unit is one step without guesses.

Reading a text comes before any gain from it, so it is owed, and paid back while the model drafts.
"""

ALLOWED = 0.01  # of each step
START, MOST = 2.0, 12.0  # steps: at first and after sleep; more is not saved
CREDIT = 2.0  # steps beyond what is in it
TERM = 64  # steps in which most of what reading took is paid back
USUAL = 2.0  # times what passes take by themselves: beyond, a text was read


class Purse:
    """
    Attributes:
        wakes: step before which the model sleeps.
    """

    def __init__(self):
        self._left, self._owed, self.wakes = START, 0.0, 0

    def settle(self, step: int, saved: float, spent: float, usual: float) -> None:
        """A step in which the model was awake.

        Args:
            step: its number.
            saved: steps that its guesses have made unnecessary.
            spent: what it took to make and to check them.
            usual: what they take where no text has to be read.
        """
        read = max(0.0, spent - USUAL * usual)
        self._owed += read
        back = self._owed / TERM
        self._owed -= back
        self._left = min(self._left + ALLOWED + saved - (spent - read) - back, MOST)
        if self._left < -CREDIT:
            self.wakes = step + 1 + round((START + self._owed - self._left) / ALLOWED)
            self._left, self._owed = START, 0.0
