"""Choose the version of a model that runs a new job, once for each job.

A deployment may change the percentages, and a version may lose its workers. Therefore the request,
the ticket and the idempotency claim of the job contain the version.
"""

import logging

from contract.catalogue import Catalogue, ModelEntry, choose_version
from gateway.queues.model_states import ModelStates

_log = logging.getLogger(__name__)


class VersionChooser:
    """Chooses versions by the percentages in the catalogue, and by the heartbeats of workers."""

    def __init__(self, catalogue: Catalogue, states: ModelStates) -> None:
        self._catalogue = catalogue
        self._states = states

    async def choose(self, model: ModelEntry, job_id: str) -> ModelEntry:
        """Return the version that the percentages and the job's id select.

        If no worker is ready for it, return the fallback version, unless no heartbeats can be read.
        """
        versions = self._catalogue.versions(model)
        chosen = versions[choose_version(model.versions, job_id)]
        if model.fallback in {"", chosen.version}:
            return chosen
        ready = await self._states.ready()
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
