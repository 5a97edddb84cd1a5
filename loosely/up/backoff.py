"""How long to wait before a dead part is started again."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Doubling delays that start over once a run has lasted.

    The first is short: a worker killed in the middle of a job is to be back before its
    caller notices.
    """

    first_seconds: float = 0.1
    limit_seconds: float = 5.0
    reset_after_seconds: float = 60.0
    _next_seconds: float = 0.0

    def after(self, uptime_seconds: float) -> float:
        """Return the delay in seconds that follows a run of ``uptime_seconds``."""
        if uptime_seconds >= self.reset_after_seconds:
            self._next_seconds = 0.0
        delay_seconds = self._next_seconds or self.first_seconds
        self._next_seconds = min(delay_seconds * 2, self.limit_seconds)
        return delay_seconds
