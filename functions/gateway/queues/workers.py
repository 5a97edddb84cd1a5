"""Read the heartbeats of workers, and decide which workers are alive."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from contract.heartbeats import SILENT_AFTER_INTERVALS, Heartbeat, ModelState, decode_heartbeat
from contract.names import HEARTBEATS
from gateway.clock import Clock
from gateway.storage.blobs import Blobs, ListedBlob
from gateway.storage.decoded_blobs import DecodedBlobs

FORGOTTEN_AFTER: Final = timedelta(minutes=10)
"""How long a silent worker is shown. Then the housekeeping deletes the worker's heartbeat."""

MAX_WORKERS: Final = 500

_LEAST_SILENT_SECONDS: Final = 3.0
# The time of a blob's last change has whole seconds.
_ROUNDING_SECONDS: Final = 1.0


class WorkerState(StrEnum):
    """A worker is `starting` while it loads a model and no model is loaded yet."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """A worker and the time of its last heartbeat, by the clock of the blob storage.

    `death` is how the process died, as reported by the process that replaces it.
    """

    heartbeat: Heartbeat
    seen_at: datetime
    death: str | None = None

    def silent_seconds(self, now: datetime) -> float:
        """Return the time since the last heartbeat."""
        return max(0.0, (now - self.seen_at).total_seconds())

    def is_silent(self, now: datetime) -> bool:
        """Return whether the worker is dead, or probably dead because heartbeats are missing."""
        if self.death is not None:
            return True
        limit = max(_LEAST_SILENT_SECONDS, SILENT_AFTER_INTERVALS * self.heartbeat.interval_seconds)
        return self.silent_seconds(now) > limit + _ROUNDING_SECONDS

    def state(self, now: datetime) -> WorkerState:
        """Return the worker's state at the time `now`."""
        if self.is_silent(now):
            return WorkerState.SILENT
        if self.heartbeat.is_draining:
            return WorkerState.DRAINING
        models = self.heartbeat.models
        is_starting = any(model.state is ModelState.LOADING for model in models) and not any(
            model.state is ModelState.LOADED for model in models
        )
        return WorkerState.STARTING if is_starting else WorkerState.READY


class WorkerHeartbeats:
    """Reads the heartbeats of all workers. Only changed heartbeats are read again."""

    def __init__(self, blobs: Blobs, clock: Clock, *, is_enabled: bool) -> None:
        self._blobs = DecodedBlobs(blobs, HEARTBEATS, _decode, MAX_WORKERS)
        self._clock = clock
        self.is_enabled = is_enabled

    async def read(self) -> list[SeenWorker]:
        """Return the workers with a heartbeat in the last ten minutes, by name; none if disabled.

        Raises Unavailable if the heartbeats cannot be read.
        """
        if not self.is_enabled:
            return []
        since = self._clock() - FORGOTTEN_AFTER
        found = await self._blobs.read(lambda blob: blob.modified_at >= since)
        deaths = {each.replaced: each.death for _, each in found}
        return [
            SeenWorker(heartbeat, blob.modified_at, deaths.get(heartbeat.worker))
            for blob, heartbeat in found
        ]


def _decode(_: ListedBlob, data: bytes) -> Heartbeat:
    return decode_heartbeat(data)
