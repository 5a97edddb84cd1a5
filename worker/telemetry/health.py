"""Decide whether the worker is alive, and whether it is ready to run jobs.

A very small test computation (kernel) shows whether the device works. On a lost device it may raise
an error or never return. So it runs on a separate thread, and the readiness probe reads its result.
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
    """Checks that the main loops of the worker's threads are still running."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, Clock] = {}
        self._broken: list[str] = []

    def watch(self, name: str, iterated_at: Clock) -> None:
        """Add a loop. `iterated_at` returns the time of the loop's last iteration."""
        self._loops[name] = iterated_at

    def guarded(self, name: str, loop: Callable[[], object]) -> Callable[[], None]:
        """Return a thread's target that runs the loop. After an error, the liveness probe fails."""

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
    """Runs a tiny computation on the device to check it, on the thread that calls `run`."""

    def __init__(
        self,
        kernel: Callable[[], None],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the computation, and the function that is called with its error."""
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
        """The time of the pending request, for `Loops.watch`; now if there is none."""
        asked_at = self._asked_at
        return self._clock() if asked_at is None else asked_at

    def ask(self) -> None:
        """Request a test computation on the device, unless one is already requested."""
        if self._asked_at is None:
            self._asked_at = self._clock()
            self._answered.clear()
            self._asked.set()

    def look(self, wait_seconds: float = _PROBE_WAIT_SECONDS) -> tuple[bool, Mapping[str, Any]]:
        """Return whether the device works, and details for the readiness probe.

        It does not if the last computation failed or has been running for more than 10 s. If the
        last success was more than 30 s ago, request a new one, and wait at most `wait_seconds` for
        it.
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
        """Run a computation for each request. To end this, set `stop` and then call `ask`."""
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


def check_readiness(
    model_states: ModelStates,
    device: DeviceProbe,
    shutdown_reason: Callable[[], str],
    *,
    are_broken_allowed: bool,
) -> tuple[bool, Mapping[str, Any]]:
    """Return whether models, queues and device are in order, and details. The worker must run.

    `shutdown_reason` returns "" while it runs. If broken models are not allowed, a rollout of a
    broken model stops, although the worker serves its other models. If they are, they count only if
    all models are broken.
    """
    states = model_states()
    if reason := shutdown_reason():
        return False, {"reason": f"draining: {reason}", "models": states}
    broken = sorted(name for name, state in states.items() if state.get("set_aside"))
    waiting = sorted(
        name for name, state in states.items() if not state["ready"] and name not in broken
    )
    is_serving_others = are_broken_allowed and len(broken) < len(states)
    if waiting or (broken and not is_serving_others):
        lists = {"not ready yet": waiting, "set aside": broken}
        reason = "; ".join(f"{key}: {', '.join(found)}" for key, found in lists.items() if found)
        return False, {"reason": reason, "models": states}
    computes, found = device.look()
    details: dict[str, Any] = {"models": states, "device": dict(found)}
    return computes, details if computes else {"reason": "the device is lost", **details}
