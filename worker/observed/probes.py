"""What the probes ask: whether the worker lives, and whether it takes jobs."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from worker.observed.pulse import Pulse

# The longest that a loop may rest on one call: the SDK waits 60 s for a broker gone silent.
_STALLED_AFTER_SECONDS = 90.0

Clock = Callable[[], float]


States = Callable[[], Mapping[str, Mapping[str, Any]]]
"""What is known of each model, as JSON objects; `ready` tells whether its jobs are taken."""


class Loops:
    """The loops that must keep turning, each with the time of its last turn."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, Clock] = {}

    def watch(self, name: str, turned_at: Clock) -> None:
        """Look after this loop; `turned_at` is by the same clock."""
        self._loops[name] = turned_at

    def live(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether every loop has turned lately; see Check."""
        now = self._clock()
        ages = {name: now - turned_at() for name, turned_at in self._loops.items()}
        stalled = sorted(name for name, age in ages.items() if age >= _STALLED_AFTER_SECONDS)
        details = {"seconds_since_turn": {name: round(age, 1) for name, age in ages.items()}}
        return not stalled, details | ({"stalled": stalled} if stalled else {})


class Readiness:
    """Whether jobs are taken: not leaving, models loaded, queues connected, device computing."""

    def __init__(self, states: States, pulse: Pulse, why_leaving: Callable[[], str]) -> None:
        """`why_leaving` is empty while the worker stays."""
        self._states = states
        self._pulse = pulse
        self._why_leaving = why_leaving

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """See Check."""
        states = self._states()
        if reason := self._why_leaving():
            return False, {"reason": f"draining: {reason}", "models": states}
        waiting = sorted(name for name, state in states.items() if not state["ready"])
        if waiting:
            return False, {"reason": f"not ready yet: {', '.join(waiting)}", "models": states}
        computes, device = self._pulse.look()
        details: dict[str, Any] = {"models": states, "device": dict(device)}
        return computes, details if computes else {"reason": "the device is lost", **details}
