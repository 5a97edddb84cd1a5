"""Decide whether the worker is alive, and whether it takes jobs.

The device is checked by a tiny kernel now and then. A lost device may raise or never return, so the
kernel runs on a thread of its own, and the readiness probe reads its last result.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

_log = logging.getLogger(__name__)

# A loop may wait on one call for this long: the SDK waits 60 s for a silent broker.
_STALLED_AFTER_SECONDS = 90.0

_MAX_AGE_SECONDS = 30.0
_MAX_KERNEL_SECONDS = 10.0
# A healthy device answers within a millisecond, so the probe that asks gets the new result.
_PROBE_WAIT_SECONDS = 0.2

Clock = Callable[[], float]
ModelStates = Callable[[], Mapping[str, Mapping[str, Any]]]
"""Return the state of each model as a JSON object; `ready` says whether it takes jobs."""


class Loops:
    """The loops that must keep running, with the times of their last turns."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, Clock] = {}
        self._broken: list[str] = []

    def watch(self, name: str, turned_at: Clock) -> None:
        """Watch a loop; `turned_at` returns the time of its last turn, by the same clock."""
        self._loops[name] = turned_at

    def guarded(self, name: str, loop: Callable[[], object]) -> Callable[[], None]:
        """Wrap a thread's function: if it raises, the worker is not alive any more."""

        def run() -> None:
            try:
                loop()
            except BaseException:  # noqa: BLE001  the edge: also a model's sys.exit
                _log.exception("%s ended by an error: this worker has to be restarted", name)
                self._broken.append(name)

        return run

    def live(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether every loop has turned recently, and the details for the probe."""
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


class DeviceProbe:
    """Runs a tiny kernel on request. `run` is a thread of its own; any thread may call the rest."""

    def __init__(
        self,
        kernel: Callable[[], None],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the parts.

        Args:
            kernel: Runs on the device, and raises if that fails.
            failed: Called with what the kernel raised.
            clock: Returns the time in seconds.
        """
        self._kernel = kernel
        self._failed = failed
        self._clock = clock
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._asked_at: float | None = None
        self._succeeded_at: float | None = None
        self._problem = "no kernel has run yet"

    @property
    def turned_at(self) -> float:
        """Return when the loop last turned: when a pending kernel was requested, else now."""
        asked_at = self._asked_at
        return self._clock() if asked_at is None else asked_at

    def ask(self) -> None:
        """Request a kernel run."""
        if self._asked_at is None:
            self._asked_at = self._clock()
            self._answered.clear()
            self._asked.set()

    def look(self, wait_seconds: float = _PROBE_WAIT_SECONDS) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the device computed recently, and the details for the probe.

        Requests a new run if the last success is too old, and waits shortly for its result.
        """
        if self._succeeded_at is None or self._clock() - self._succeeded_at > _MAX_AGE_SECONDS:
            self.ask()
            self._answered.wait(wait_seconds)
        now, asked_at, succeeded_at = self._clock(), self._asked_at, self._succeeded_at
        if asked_at is not None and now - asked_at > _MAX_KERNEL_SECONDS:
            return False, {
                "problem": "it does not answer",
                "asked_seconds_ago": round(now - asked_at),
            }
        if self._problem or succeeded_at is None:
            return False, {"problem": self._problem}
        return True, {"computed_seconds_ago": round(now - succeeded_at, 1)}

    def run(self, stop: threading.Event) -> None:
        """Run the kernel on request. To stop, set `stop` and call `ask`. The thread's function."""
        while True:
            self._asked.wait()
            self._asked.clear()
            if stop.is_set():
                return
            self.run_kernel()

    def run_kernel(self) -> None:
        """Run the kernel once, and store its result."""
        try:
            self._kernel()
        except Exception as error:  # noqa: BLE001  any error counts as a failed device
            _log.error("the device does not compute: %s", type(error).__name__)
            self._problem = type(error).__name__
            self._succeeded_at = None
            self._failed(error)
        else:
            self._problem = ""
            self._succeeded_at = self._clock()
        finally:
            self._asked_at = None
            self._answered.set()


class WorkerReadiness:
    """Whether the worker takes jobs.

    It does if it is not shutting down, its models are loaded, their queues are connected, and its
    device computes.
    """

    def __init__(
        self, states: ModelStates, device: DeviceProbe, shutdown_reason: Callable[[], str]
    ) -> None:
        """Store the parts; `shutdown_reason` returns an empty text while the worker runs."""
        self._states = states
        self._device = device
        self._shutdown_reason = shutdown_reason

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the worker takes jobs, and the details for the probe."""
        states = self._states()
        if reason := self._shutdown_reason():
            return False, {"reason": f"draining: {reason}", "models": states}
        waiting = sorted(name for name, state in states.items() if not state["ready"])
        if waiting:
            return False, {"reason": f"not ready yet: {', '.join(waiting)}", "models": states}
        computes, device = self._device.look()
        details: dict[str, Any] = {"models": states, "device": dict(device)}
        return computes, details if computes else {"reason": "the device is lost", **details}
