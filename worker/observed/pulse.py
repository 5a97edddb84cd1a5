"""The device's pulse: a tiny kernel now and then, so that readiness tells what is true of it.

A lost device may raise or never return. So the kernel has a thread of its own, and a probe looks
at what it found instead of running it.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 30.0
_PATIENCE_SECONDS = 10.0
# A healthy device answers in well under a millisecond: long enough to have it in the same probe.
_AT_ONCE_SECONDS = 0.2


class Pulse:
    """`look` and `ask` are for any thread, `run` is the pulse's own."""

    def __init__(
        self,
        kernel: Callable[[], None],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kernel` runs on the device and raises what is wrong; `failed` hears of that, too."""
        self._kernel = kernel
        self._failed = failed
        self._clock = clock
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._asked_at: float | None = None
        self._beat_at: float | None = None
        self._problem = "no kernel has run yet"

    @property
    def turned_at(self) -> float:
        """When its loop last went on: a kernel that does not come back holds it up."""
        asked_at = self._asked_at
        return self._clock() if asked_at is None else asked_at

    def ask(self) -> None:
        """Have a kernel run soon."""
        if self._asked_at is None:
            self._asked_at = self._clock()
            self._answered.clear()
            self._asked.set()

    def look(self, wait_seconds: float = _AT_ONCE_SECONDS) -> tuple[bool, Mapping[str, Any]]:
        """Whether the device computed lately; where that is long ago, has it try again."""
        if self._beat_at is None or self._clock() - self._beat_at > _FRESH_SECONDS:
            self.ask()
            self._answered.wait(wait_seconds)
        now, asked_at, beat_at = self._clock(), self._asked_at, self._beat_at
        if asked_at is not None and now - asked_at > _PATIENCE_SECONDS:
            return False, {
                "problem": "it does not answer",
                "asked_seconds_ago": round(now - asked_at),
            }
        if self._problem or beat_at is None:
            return False, {"problem": self._problem}
        return True, {"computed_seconds_ago": round(now - beat_at, 1)}

    def run(self, stop: threading.Event) -> None:
        """The thread: run the kernel whenever asked, until `stop`, after which `ask` once more."""
        while True:
            self._asked.wait()
            self._asked.clear()
            if stop.is_set():
                return
            self.beat()

    def beat(self) -> None:
        """Run the kernel."""
        try:
            self._kernel()
        except Exception as error:  # noqa: BLE001  whatever a device raises is what we want to know
            _log.error("the device does not compute: %s", type(error).__name__)
            self._problem = type(error).__name__
            self._beat_at = None
            self._failed(error)
        else:
            self._problem = ""
            self._beat_at = self._clock()
        finally:
            self._asked_at = None
            self._answered.set()
