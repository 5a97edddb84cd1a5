"""Choose the version of a model that runs a new job.

The choice depends on the job id, on the percentages in the catalogue, and on the workers that are
ready. A deployment may change the percentages, and a version may lose its workers. Therefore a
job's version is chosen only once. The request, the ticket and the idempotency claim of the job
contain the version.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from contract.catalogue import Catalogue, ModelEntry, choose_version
from contract.heartbeats import ModelBeat, ModelState
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.operations.workers import SeenWorker, WorkerHeartbeats

FRESH: Final = timedelta(seconds=2)
"""How long heartbeats are reused for the choice of versions before they are read again."""

_log = logging.getLogger(__name__)


class VersionChooser:
    """Chooses versions by the percentages in the catalogue, and by the heartbeats of workers."""

    def __init__(self, catalogue: Catalogue, heartbeats: WorkerHeartbeats, clock: Clock) -> None:
        self._catalogue = catalogue
        self._heartbeats = heartbeats
        self._clock = clock
        self._ready: frozenset[str] | None = None
        self._read_at: datetime | None = None
        self._reading = asyncio.Lock()

    async def choose(self, model: ModelEntry, job_id: str) -> ModelEntry:
        """Return the version of a model for a new job.

        The percentages in the catalogue select a version. If no worker is ready for this version,
        and the model has a fallback, return the version `fallback` instead. If the heartbeats
        cannot be read, the fallback is not used.
        """
        versions = self._catalogue.versions(model)
        chosen = versions[choose_version(model.versions, job_id)]
        if model.fallback in {"", chosen.version}:
            return chosen
        ready = await self._ready_models()
        if ready is None or chosen.name in ready:
            return chosen
        _log.info(
            "job %s gets version %s of %s, because no worker is ready for version %s",
            *(job_id, model.fallback, model.model_name, chosen.version),
        )
        return versions[model.fallback]

    def find(self, model: ModelEntry, version: str) -> ModelEntry | None:
        """Return the entry of a version; None if the catalogue does not contain it any more."""
        return self._catalogue.versions(model).get(version)

    async def _ready_models(self) -> frozenset[str] | None:
        """Return the names of the models with a ready worker; None if heartbeats cannot be read."""
        async with self._reading:
            now = self._clock()
            if self._read_at is None or not timedelta() <= now - self._read_at < FRESH:
                try:
                    self._ready = find_ready(await self._heartbeats.read(), now)
                except Unavailable as error:
                    _log.warning(
                        "the heartbeats cannot be read, so no job gets a fallback version: %s",
                        error,
                    )
                    self._ready = None
                self._read_at = now
            return self._ready


def find_ready(workers: list[SeenWorker], now: datetime) -> frozenset[str]:
    """Return the names of the models and versions for which at least one worker is ready."""
    return frozenset(
        beat.name
        for worker in workers
        if not worker.is_silent(now) and not worker.heartbeat.is_draining
        for beat in worker.heartbeat.models
        if _is_ready(beat)
    )


def _is_ready(beat: ModelBeat) -> bool:
    # An unloaded model is loaded when it has jobs. A model that loads again ran before.
    is_loading_again = beat.state is ModelState.LOADING and beat.load_seconds is not None
    return is_loading_again or beat.state in {ModelState.LOADED, ModelState.UNLOADED}
