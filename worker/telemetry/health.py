"""Decide whether the worker is alive, and whether it is ready to run jobs.

A very small test computation on the device shows whether the device works. On a lost device, the
computation may raise an error or never return. So it runs on a separate thread, and the readiness
probe reads the result of the last test computation.
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
# How long a readiness probe waits for the kernel that it has requested. A device that works
# finishes the kernel within a millisecond, so that this probe already gets the result.
_PROBE_WAIT_SECONDS = 0.2

Clock = Callable[[], float]
ModelStates = Callable[[], Mapping[str, Mapping[str, Any]]]
"""The type of a function that returns the state of each model as a JSON object.

In each of these objects, `ready` is true or false.
"""


class Loops:
    """Checks that the main loops of the worker's threads are still running.

    Each loop reports the time of its last iteration.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, Clock] = {}
        self._broken: list[str] = []

    def watch(self, name: str, iterated_at: Clock) -> None:
        """Add a loop. `iterated_at` returns the time of the loop's last iteration."""
        self._loops[name] = iterated_at

    def guarded(self, name: str, loop: Callable[[], object]) -> Callable[[], None]:
        """Return a function that runs the loop, for use as the target of a thread.

        If the loop raises an error, the liveness probe fails from then on.
        """

        def run() -> None:
            try:
                loop()
            except BaseException:  # noqa: BLE001  a model may also call sys.exit
                _log.exception("an error ended the loop %s: this worker must be restarted", name)
                self._broken.append(name)

        return run

    def live(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether all loops are running, and the details that the liveness probe returns."""
        now = self._clock()
        ages = {name: now - iterated_at() for name, iterated_at in self._loops.items()}
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
    """Runs a very small test computation on the device to check whether the device works.

    The thread that calls `run` runs the computation. Any thread may call the other methods.
    """

    def __init__(
        self,
        kernel: Callable[[], None],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the probe without running the test computation.

        Args:
            kernel: Runs a very small computation on the device, and raises an error if it fails.
            failed: Called with the error if the computation fails.
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
    def iterated_at(self) -> float:
        """The time of the last iteration of the loop in `run`, for `Loops.watch`.

        If `ask` has requested a test computation that has not ended, the value is the time of the
        request. Otherwise, the value is the current time, because an idle loop is not stalled.
        """
        asked_at = self._asked_at
        return self._clock() if asked_at is None else asked_at

    def ask(self) -> None:
        """Request a test computation on the device, unless one is already requested."""
        if self._asked_at is None:
            self._asked_at = self._clock()
            self._answered.clear()
            self._asked.set()

    def look(self, wait_seconds: float = _PROBE_WAIT_SECONDS) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the device works, and details for the response to the readiness probe.

        The device works if the last test computation succeeded, and if no test computation has been
        running for more than 10 s. If the last success was more than 30 s ago, this method requests
        a new test computation, and waits at most `wait_seconds` for its end.
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
        """Run a test computation each time that `ask` requests one, until `stop` is set.

        To end this loop, another thread must set `stop` and then call `ask`.
        """
        while True:
            self._asked.wait()
            self._asked.clear()
            if stop.is_set():
                return
            self.run_kernel()

    def run_kernel(self) -> None:
        """Run the test computation once, and record whether it succeeded."""
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
        """Store the functions and objects that provide the worker's state.

        Args:
            states: Returns the state of each model.
            device: Probes the device.
            shutdown_reason: Returns why the worker shuts down; an empty string while the worker
                runs.
        """
        self._states = states
        self._device = device
        self._shutdown_reason = shutdown_reason

    def ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the worker is ready, and the details that the readiness probe returns.

        A model that cannot be loaded because it is broken is set aside. A worker with such a model
        is not ready, so that a rollout of a broken model stops. Nevertheless, the worker serves its
        other models.
        """
        return self._judge(are_broken_allowed=False)

    def started(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the start of the worker has ended, and details for the startup probe.

        A model that cannot be loaded because it is broken is set aside. This method ignores the
        models that are set aside, unless all models of the worker are set aside.
        """
        return self._judge(are_broken_allowed=True)

    def _judge(self, *, are_broken_allowed: bool) -> tuple[bool, Mapping[str, Any]]:
        states = self._states()
        if reason := self._shutdown_reason():
            return False, {"reason": f"draining: {reason}", "models": states}
        broken = sorted(name for name, state in states.items() if state.get("set_aside"))
        waiting = sorted(
            name for name, state in states.items() if not state["ready"] and name not in broken
        )
        is_serving_others = are_broken_allowed and len(broken) < len(states)
        if waiting or (broken and not is_serving_others):
            lists = {"not ready yet": waiting, "set aside": broken}
            reason = "; ".join(
                f"{key}: {', '.join(found)}" for key, found in lists.items() if found
            )
            return False, {"reason": reason, "models": states}
        computes, device = self._device.look()
        details: dict[str, Any] = {"models": states, "device": dict(device)}
        return computes, details if computes else {"reason": "the device is lost", **details}
