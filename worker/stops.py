"""Read the log of stop orders: which running jobs must stop, because they were cancelled.

All processes read the same log, which has a blob for each minute (`contract.streams`). A process
reads it only while jobs run that can be stopped, with one request for all of them. The gateway also
answers a progress report of a cancelled job with 410, so a line that is lost costs some seconds.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from contract.streams import parse_stop, stop_log
from worker.clock import utc_now
from worker.objects.port import BlobStore, ObjectsUnavailable
from worker.telemetry.recording import ServiceStatus

_log = logging.getLogger(__name__)

READ_SECONDS: Final = 0.2
"""The pause between two reads of the log while jobs run."""

_TIMEOUT_SECONDS: Final = 5.0
_MAX_READ_BYTES: Final = 1024 * 1024
# The clock of the gateway that appends a line may differ from the clock of this machine.
_CLOCKS_DIFFER: Final = timedelta(seconds=10)


class StopOrders:
    """Tells the running jobs of this process that they must stop. Any thread may watch a job."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._status = ServiceStatus("blob storage for stop orders")
        self._watched: dict[object, tuple[str, Callable[[], None]]] = {}
        self._are_watched = threading.Event()
        # How much of each log was read.
        self._offsets: dict[str, int] = {}

    def watch(self, key: object, job_id: str, on_stop: Callable[[], None]) -> None:
        """Call `on_stop` on another thread when the job is ordered to stop, until `unwatch`."""
        self._watched[key] = (job_id, on_stop)
        self._are_watched.set()

    def unwatch(self, key: object) -> None:
        """Do not call the function of `watch` any more."""
        self._watched.pop(key, None)

    def run(self, stop: threading.Event) -> None:
        """Read the log until `stop` is set."""
        while not stop.wait(READ_SECONDS):
            if not self._watched:
                self._are_watched.clear()
                # Again, because a job may have been added in between.
                if not self._watched:
                    self._are_watched.wait(1.0)
                    continue
            try:
                self.read(utc_now())
            except (ObjectsUnavailable, OSError) as error:
                self._status.mark_down(str(error))
            except Exception:  # noqa: BLE001  this thread must not end
                _log.exception("the log of stop orders could not be read")
            else:
                self._status.mark_up()

    def read(self, now: datetime) -> None:
        """Read what was appended since the last call. Raises ObjectsUnavailable."""
        times = (now - _CLOCKS_DIFFER, now, now + _CLOCKS_DIFFER)
        logs = dict.fromkeys(stop_log(at) for at in times)
        self._offsets = {log: self._offsets.get(log, 0) for log in logs}
        for log in logs:
            stopped = self._read_log(log)
            for job_id, on_stop in list(self._watched.values()):
                if job_id in stopped:
                    on_stop()

    def _read_log(self, log: str) -> set[str]:
        """Return the jobs that the new lines of one log name."""
        data = self._store.read_from(log, self._offsets[log], _MAX_READ_BYTES, _TIMEOUT_SECONDS)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == _MAX_READ_BYTES:
            end = len(data)  # this is no log of ours
        self._offsets[log] += end
        return {job_id for line in data[:end].splitlines() if (job_id := parse_stop(line))}
