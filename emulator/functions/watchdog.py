"""Warn if a function in the host's process blocks the event loop, on which all requests wait."""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from types import FrameType

_log = logging.getLogger("functions.host")
_BLOCK_SECONDS = 2.0
_PAUSE_SECONDS = 0.5
_SLICE_SECONDS = 0.25

Describe = Callable[[FrameType], str | None]


class LoopWatchdog:
    """Watches an event loop from a thread, and logs one warning for each block of two seconds.

    `describe` gets the innermost frame of the loop's thread, and returns what blocks the loop, or
    None if the app does not.
    """

    def __init__(self, describe: Describe) -> None:
        """Watch the running event loop until `stop`."""
        self._describe = describe
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopping = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end."""
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.wait(_PAUSE_SECONDS):
            beat = threading.Event()
            try:
                self._loop.call_soon_threadsafe(beat.set)
            except RuntimeError:  # the loop is closed
                return
            if not _wait(beat, _BLOCK_SECONDS):
                self._warn()
                beat.wait()

    def _warn(self) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # the only way to another thread
        blocker = frame and self._describe(frame)
        if blocker:
            _log.warning(
                "%s has blocked the event loop of the host for %.0f s: meanwhile the host serves "
                "no other request. Await what takes long, or do it in a synchronous function or a "
                "thread; or run the app in a process of its own with --isolated",
                blocker,
                _BLOCK_SECONDS,
            )


def _wait(beat: threading.Event, seconds: float) -> bool:
    """Wait until `beat` is set, and return whether it is.

    The time in which this whole process was stopped does not count, except for one slice.
    """
    return any(beat.wait(_SLICE_SECONDS) for _ in range(round(seconds / _SLICE_SECONDS)))
