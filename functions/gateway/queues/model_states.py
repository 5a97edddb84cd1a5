"""Determine from the heartbeats of workers which models are ready, and which cannot be loaded."""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from contract.catalogue import ModelEntry, split_name
from contract.heartbeats import ModelHeartbeat, ModelState
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.queues.workers import WorkerHeartbeats

# How long the heartbeats are reused to find the ready models, or to count or find broken ones.
READY_FOR: Final = timedelta(seconds=2)
BROKEN_FOR: Final = timedelta(seconds=10)

_log = logging.getLogger(__name__)


class ModelStates:
    """The states of all models in the workers that are alive."""

    def __init__(self, heartbeats: WorkerHeartbeats, clock: Clock) -> None:
        self._heartbeats = heartbeats
        self._clock = clock
        self._beats: tuple[ModelHeartbeat, ...] | None = None
        self._read_at: datetime | None = None
        self._reading = asyncio.Lock()

    async def ready(self) -> frozenset[str] | None:
        """Return the models and versions with a ready worker; None if no heartbeat can be read."""
        beats = await self._read(READY_FOR)
        return None if beats is None else frozenset(beat.name for beat in beats if _is_ready(beat))

    async def ready_count(self, model: str) -> int | None:
        """Return how many live workers can run a model, in any version; None if unknown."""
        beats = await self._read(BROKEN_FOR)
        if not beats:
            return None
        return sum(split_name(beat.name)[0] == model and _is_ready(beat) for beat in beats)

    async def jobs_at_once(self, model: ModelEntry) -> int:
        """Return how many jobs a worker runs at once: those of a batch, if the model has batches.

        Only heartbeats show whether a model is concurrent. Without one, it counts as one with
        batches.
        """
        beats = await self._read(BROKEN_FOR) or ()
        known = (beat.max_concurrent_jobs for beat in beats if beat.name == model.name)
        return max((jobs for jobs in known if jobs), default=model.max_batch_size)

    async def broken(self) -> frozenset[str]:
        """Return the models that no live worker can load; none if no heartbeat can be read."""
        beats = await self._read(BROKEN_FOR) or ()
        usable = {beat.name for beat in beats if beat.state is not ModelState.BROKEN}
        return frozenset(beat.name for beat in beats) - usable

    async def _read(self, reused_for: timedelta) -> tuple[ModelHeartbeat, ...] | None:
        """Return the states of the models. Callers at the same time share one read."""
        if not self._is_recent(reused_for):
            async with self._reading:
                if not self._is_recent(reused_for):
                    await self._read_again()
        return self._beats

    def _is_recent(self, reused_for: timedelta) -> bool:
        if self._read_at is None:
            return False
        return timedelta() <= self._clock() - self._read_at < reused_for

    async def _read_again(self) -> None:
        try:
            workers = await self._heartbeats.read()
            now = self._clock()
            live = [each for each in workers if not each.is_silent(now)]
            beats = [each.heartbeat for each in live if not each.heartbeat.is_draining]
            self._beats = tuple(model for beat in beats for model in beat.models)
        except Unavailable as error:
            _log.warning(
                "the heartbeats cannot be read, so no job gets a fallback version, and no "
                "model is treated as broken: %s",
                error,
            )
            self._beats = None
        # The time after the read: a slow read must not expire before the other callers see it.
        self._read_at = self._clock()


def _is_ready(beat: ModelHeartbeat) -> bool:
    # An unloaded model is loaded when it has jobs. A model that loads again ran before.
    is_loading_again = beat.state is ModelState.LOADING and beat.load_seconds is not None
    return is_loading_again or beat.state in {ModelState.LOADED, ModelState.UNLOADED}
