"""Decide whether the worker is alive, and whether it is ready to run jobs.

A tiny kernel on the device shows whether the device works. On a lost device, the kernel may raise
an error or never return. So the kernel runs on a separate thread, and the readiness probe reads the
last result.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

_log = logging.getLogger(__name__)

# A loop counts as stalled after this time. One call may last long: the SDK waits up to 60 s for a
# broker that does not answer.
_STALLED_AFTER_SECONDS = 90.0

_MAX_AGE_SECONDS = 30.0
_MAX_KERNEL_SECONDS = 10.0
# A healthy device finishes the kernel within a millisecond, so that the probe that requested the
# kernel also gets its result.
_PROBE_WAIT_SECONDS = 0.2

Clock = Callable[[], float]
ModelStates = Callable[[], Mapping[str, Mapping[str, Any]]]
"""Return the state of each model as a JSON object, in which `ready` is true or false."""


class Loops:
    """Watches the loops that must keep running, by the time of each loop's last iteration."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, Clock] = {}
        self._broken: list[str] = []

    def watch(self, name: str, turned_at: Clock) -> None:
        """Watch a loop; `turned_at` returns the time of the loop's last iteration."""
        self._loops[name] = turned_at

    def guarded(self, name: str, loop: Callable[[], object]) -> Callable[[], None]:
        """Return a thread function that runs the loop.

        If the loop raises an error, the worker no longer counts as alive.
        """

        def run() -> None:
            try:
                loop()
            except BaseException:  # noqa: BLE001  the edge: also a model's sys.exit
                _log.exception(
                    "the loop %s was ended by an error: this worker must be restarted", name
                )
                self._broken.append(name)

        return run

    def live(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether all loops are running, and the details for the liveness probe."""
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
    """Runs a tiny kernel on the device when requested, in the thread that calls `run`.

    Any thread may call the other methods.
    """

    def __init__(
        self,
        kernel: Callable[[], None],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the functions.

        Args:
            kernel: Runs the kernel on the device; raises an error if that fails.
            failed: Called with the error that the kernel raised.
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
        """Return the time of the pending request, because the loop has been busy since then.

        If no request is pending, return the current time, so that the loop does not look stalled.
        """
        asked_at = self._asked_at
        return self._clock() if asked_at is None else asked_at

    def ask(self) -> None:
        """Request a kernel run, unless one is already requested."""
        if self._asked_at is None:
            self._asked_at = self._clock()
            self._answered.clear()
            self._asked.set()

    def look(self, wait_seconds: float = _PROBE_WAIT_SECONDS) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the device ran the kernel recently, and the details for the probe.

        If the last success is too old, request a new run and wait up to `wait_seconds` for it.
        """
        if self._succeeded_at is None or self._clock() - self._succeeded_at > _MAX_AGE_SECONDS:
            self.ask()
            self._answered.wait(wait_seconds)
        now, asked_at, succeeded_at = self._clock(), self._asked_at, self._succeeded_at
        if asked_at is not None and now - asked_at > _MAX_KERNEL_SECONDS:
            return False, {
                "problem": "the kernel has not finished",
                "asked_seconds_ago": round(now - asked_at),
            }
        if self._problem or succeeded_at is None:
            return False, {"problem": self._problem}
        return True, {"computed_seconds_ago": round(now - succeeded_at, 1)}

    def run(self, stop: threading.Event) -> None:
        """Run the kernel on each request. This is the function of the probe's thread.

        To end this, another thread must set `stop` and call `ask`.
        """
        while True:
            self._asked.wait()
            self._asked.clear()
            if stop.is_set():
                return
            self.run_kernel()

    def run_kernel(self) -> None:
        """Run the kernel once, and record whether it succeeded."""
        try:
            self._kernel()
        except Exception as error:  # noqa: BLE001  any error counts as a failed device
            _log.error("a test computation on the device failed: %s", type(error).__name__)
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
    """Decides whether the worker is ready to run jobs.

    The worker is ready if it is not shutting down, its models are loaded or wait for memory, their
    queues are connected, and its device works.
    """

    def __init__(
        self, states: ModelStates, device: DeviceProbe, shutdown_reason: Callable[[], str]
    ) -> None:
        """Store the sources of the decision.

        Args:
            states: Returns the state of each model.
            device: Probes the device.
            shutdown_reason: Returns why the worker shuts down; an empty text while it runs.
        """
        self._states = states
        self._device = device
        self._shutdown_reason = shutdown_reason

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the worker is ready to run jobs, and the details for the probe."""
        states = self._states()
        if reason := self._shutdown_reason():
            return False, {"reason": f"draining: {reason}", "models": states}
        waiting = sorted(name for name, state in states.items() if not state["ready"])
        if waiting:
            return False, {"reason": f"not ready yet: {', '.join(waiting)}", "models": states}
        computes, device = self._device.look()
        details: dict[str, Any] = {"models": states, "device": dict(device)}
        return computes, details if computes else {"reason": "the device is lost", **details}
