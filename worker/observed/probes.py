"""What the probes ask: whether the worker lives, and whether it takes jobs."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from worker.observed.pulse import Pulse

_log = logging.getLogger(__name__)

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
        self._broken: list[str] = []

    def watch(self, name: str, turned_at: Clock) -> None:
        """Look after this loop; `turned_at` is by the same clock."""
        self._loops[name] = turned_at

    def guarded(self, name: str, loop: Callable[[], object]) -> Callable[[], None]:
        """The loop as a thread runs it: where it ends by a defect, the worker lives no more."""

        def run() -> None:
            try:
                loop()
            except BaseException:  # noqa: BLE001  the edge: even a model's sys.exit must be seen
                _log.exception("%s ended by a defect: this worker is to be restarted", name)
                self._broken.append(name)

        return run

    def live(self) -> tuple[bool, Mapping[str, Any]]:
        """Whether every loop goes on, and has turned lately; see Check."""
        now = self._clock()
        ages = {name: now - turned_at() for name, turned_at in self._loops.items()}
        stalled = sorted(name for name, age in ages.items() if age >= _STALLED_AFTER_SECONDS)
        details: dict[str, Any] = {
            "seconds_since_turn": {name: round(age, 1) for name, age in ages.items()}
        }
        if stalled:
            details["stalled"] = stalled
        if self._broken:
            details["broken"] = list(self._broken)
        return not stalled and not self._broken, details


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
