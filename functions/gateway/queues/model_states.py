"""Determine from the heartbeats of workers which models are ready, and which cannot be loaded."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from contract.heartbeats import ModelHeartbeat, ModelState
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.queues.workers import SeenWorker, WorkerHeartbeats

READY_FOR: Final = timedelta(seconds=2)
"""How long the heartbeats are reused to find the ready models before they are read again."""

BROKEN_FOR: Final = timedelta(seconds=10)
"""How long the heartbeats are reused to find the broken models before they are read again."""

_log = logging.getLogger(__name__)


class ModelStates:
    """The states of all models in the workers that are alive.

    The states are cached. `ready` reads the heartbeats again if the cached states are older than
    READY_FOR, and `broken` if they are older than BROKEN_FOR.
    """

    def __init__(self, heartbeats: WorkerHeartbeats, clock: Clock) -> None:
        self._heartbeats = heartbeats
        self._clock = clock
        self._beats: tuple[ModelHeartbeat, ...] | None = None
        self._read_at: datetime | None = None
        self._reading = asyncio.Lock()

    async def ready(self) -> frozenset[str] | None:
        """Return the names of the models with a ready worker.

        Returns None if the heartbeats cannot be read.
        """
        beats = await self._read(READY_FOR)
        return None if beats is None else find_ready(beats)

    async def broken(self) -> frozenset[str]:
        """Return the names of the models that are broken in all live workers that serve them.

        A worker cannot load a broken model. The result is empty if the heartbeats cannot be read.
        """
        return find_broken(await self._read(BROKEN_FOR) or ())

    async def _read(self, reused_for: timedelta) -> tuple[ModelHeartbeat, ...] | None:
        """Return the states of the models; None if the heartbeats cannot be read.

        The heartbeats are read again unless they were read less than `reused_for` ago. Callers that
        wait at the same time share one read.
        """
        if not self._is_recent(reused_for):
            async with self._reading:
                if not self._is_recent(reused_for):
                    await self._read_again()
        return self._beats

    def _is_recent(self, reused_for: timedelta) -> bool:
        """Return whether the heartbeats were read less than `reused_for` ago."""
        if self._read_at is None:
            return False
        return timedelta() <= self._clock() - self._read_at < reused_for

    async def _read_again(self) -> None:
        """Read the heartbeats, and store the states of the models and the time of this read."""
        try:
            workers = await self._heartbeats.read()
            self._beats = tuple(_beats_of(workers, self._clock()))
        except Unavailable as error:
            _log.warning(
                "the heartbeats cannot be read, so no job gets a fallback version, and no "
                "model is treated as broken: %s",
                error,
            )
            self._beats = None
        # The time after the read: a slow read must not expire before the other callers see it.
        self._read_at = self._clock()


def _beats_of(workers: Sequence[SeenWorker], now: datetime) -> Iterator[ModelHeartbeat]:
    """Yield the states of the models in the workers that are alive and receive jobs."""
    for worker in workers:
        if not worker.is_silent(now) and not worker.heartbeat.is_draining:
            yield from worker.heartbeat.models


def find_ready(models: Sequence[ModelHeartbeat]) -> frozenset[str]:
    """Return the names of the models and versions for which at least one worker is ready."""
    return frozenset(model.name for model in models if _is_ready(model))


def find_broken(models: Sequence[ModelHeartbeat]) -> frozenset[str]:
    """Return the names of the models that are broken in all workers that serve them.

    `models` contains the state of each model in each worker. A worker cannot load a broken model.
    """
    usable = {model.name for model in models if model.state is not ModelState.BROKEN}
    return frozenset(model.name for model in models if model.name not in usable)


def _is_ready(beat: ModelHeartbeat) -> bool:
    # An unloaded model is loaded when it has jobs. A model that loads again ran before.
    is_loading_again = beat.state is ModelState.LOADING and beat.load_seconds is not None
    return is_loading_again or beat.state in {ModelState.LOADED, ModelState.UNLOADED}
