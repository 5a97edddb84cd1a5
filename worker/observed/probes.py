"""What the probes ask: whether the worker lives, and whether it takes jobs."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from worker.observed.pulse import Pulse

# The longest that a loop may rest on one call: the SDK waits 60 s for a broker gone silent.
_STALLED_AFTER_SECONDS = 90.0

Clock = Callable[[], float]


class Serving(Protocol):
    """A model's consumer, as the probes see it."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether jobs are taken, or will be as soon as there is memory for the model."""
        ...

    def state(self) -> Mapping[str, Any]:
        """The details, as a JSON object."""
        ...


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

    def __init__(
        self, models: Sequence[Serving], pulse: Pulse, why_leaving: Callable[[], str]
    ) -> None:
        """`why_leaving` is empty while the worker stays."""
        self._models = models
        self._pulse = pulse
        self._why_leaving = why_leaving

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """See Check."""
        states = {model.name: dict(model.state()) for model in self._models}
        if reason := self._why_leaving():
            return False, {"reason": f"draining: {reason}", "models": states}
        waiting = sorted(model.name for model in self._models if not model.is_ready)
        if waiting:
            return False, {"reason": f"not ready yet: {', '.join(waiting)}", "models": states}
        computes, device = self._pulse.look()
        details: dict[str, Any] = {"models": states, "device": dict(device)}
        return computes, details if computes else {"reason": "the device is lost", **details}
