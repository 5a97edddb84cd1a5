"""Test how a worker shuts down. A signal may request the shutdown at any moment."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

from worker.processes.shutdown import EXIT_DEVICE_LOST, Shutdown


def test_first_reason_and_failure_code_are_kept() -> None:
    leaving = Shutdown()
    leaving.request("told to leave")
    leaving.request("the device is lost", EXIT_DEVICE_LOST)
    leaving.request("told again")
    leaving.wait()
    assert leaving.is_requested
    assert (leaving.reason, leaving.exit_code) == ("told to leave", EXIT_DEVICE_LOST)


def test_signal_at_any_line_ends_the_wait() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    for number in range(40):
        leaving, lines = Shutdown(), iter(range(40))
        signal.signal(signal.SIGUSR1, lambda *_, asked=leaving: asked.request("a signal"))

        def trace(
            frame: FrameType, event: str, arg: Any, at: int = number, lines: Any = lines
        ) -> Any:
            if next(lines, None) == at:
                sys.settrace(None)
                signal.raise_signal(signal.SIGUSR1)
            return trace

        late = threading.Timer(0.02, leaving.request, ["the wait has fewer lines"])
        late.start()
        sys.settrace(trace)
        leaving.wait()
        sys.settrace(None)
        late.cancel()
    signal.signal(signal.SIGUSR1, before)
