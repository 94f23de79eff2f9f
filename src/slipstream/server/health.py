"""Health of the engine as seen from outside: it sends beats, and its steps go on while it has work. No I/O, no clock of its own.

Owns the rule of what counts as well. Readiness falls when the last sign of progress is older than `grace`; whether the engine is
then given up is for the link to say.
"""

from slipstream.server.messages import Beat

GRACE = 1.5  # seconds without a beat, or without a step while there is work, until readiness falls
SLOW_STEPS = 3  # a step may take this many times the longest one so far


class Health:
    """Signs of progress of one engine process.

    Args:
        step: seconds of the longest step known so far.
        now: the time, in seconds of a monotonic clock.
    """

    def __init__(self, step: float, now: float):
        self._step = step
        self._beat_at = self._moved_at = now
        self._steps = -1

    def beat(self, beat: Beat, now: float) -> None:
        """A beat arrived."""
        self._beat_at = now
        if beat.steps != self._steps or not beat.working:
            self._moved_at = now
        self._steps = beat.steps
        self._step = max(self._step, *beat.recent, 0.0)

    def excuse(self, seconds: float) -> None:
        """We were away ourselves for so long, and could not have seen anything."""
        self._beat_at += seconds
        self._moved_at += seconds

    def silence(self, now: float) -> float:
        """Seconds since the engine was last seen to be well; time that its slowest steps may need does not count."""
        beat, move = now - self._beat_at, now - self._moved_at
        return max(beat, move - max(SLOW_STEPS * self._step - GRACE, 0.0), 0.0)

    def well(self, now: float) -> bool:
        return self.silence(now) < GRACE
