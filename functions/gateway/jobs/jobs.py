"""The jobs of the gateway: find one, wait for its end, end it.

A job's outcome is recorded first, and everything else follows from the record (see `outcome`).
Each of these steps may be the last before the process dies:

    record the outcome ──▶ wake the callers who wait here ──▶ tell the orchestration

After the first step every instance of the app answers with the outcome. If the orchestration is
not told, it finds the outcome by itself: it checks for one from time to time.
"""

import contextlib
import logging
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Final

from contract.names import EVENT_REPLY
from gateway.durable import Durable, Instance, RuntimeStatus
from gateway.errors import FinalInstance, Unavailable, UnknownInstance
from gateway.jobs.live import stopping_since
from gateway.jobs.outcome import LOST, Outcome, OutcomeStore, outcome_to_json
from gateway.jobs.record import Record, begun_by, ended, is_final, output_of
from gateway.jobs.waiting import Waiter, wait_until_final
from gateway.services import Services

EXPIRY_GRACE: Final = timedelta(seconds=5)
"""How long after its deadline a job is left to its orchestration before a reader ends it."""

LOOKS_PER_FULL_LOOK: Final = 8
"""A waiter looks for the outcome alone, and now and then also at the orchestration."""

_log = logging.getLogger(__name__)


class Jobs:
    """Jobs by their ids, through one invocation's durable client."""

    def __init__(self, durable: Durable, services: Services) -> None:
        self._durable = durable
        self._services = services
        self._outcomes = OutcomeStore(services.blobs)

    async def find(self, job_id: str) -> Record | None:
        """Return the job's record as of now, or None if there is no such job.

        Raises Unavailable.
        """
        instance = await self._durable.status(job_id)
        return None if instance is None else await self.record_of(job_id, instance)

    async def record_of(self, job_id: str, instance: Instance) -> Record | None:
        """Return the record of the job with this orchestration; None if it is not a job's.

        A job is final once its outcome is recorded. If its orchestration ended without one, or did
        not end it at its deadline, this call records the outcome. Raises Unavailable.
        """
        if (output := output_of(instance)) is not None:
            return output
        begun = begun_by(instance)
        if begun is None:
            return None
        outcome = await self._outcomes.find(job_id)
        if outcome is None and (overdue := await self._overdue(job_id, begun, instance)):
            outcome = await self._outcomes.record(job_id, overdue)
        return begun if outcome is None else ended(begun, outcome)

    async def wait(
        self, job_id: str, begun: Record, waiter: Waiter, limit_seconds: float
    ) -> Record | None:
        """Return the job's final record; None if it does not end within the limit.

        `begun` is its record when the wait began.
        """
        look_count = 0

        async def look() -> Record | None:
            nonlocal look_count
            look_count += 1
            if look_count % LOOKS_PER_FULL_LOOK:
                outcome = await self._outcomes.find(job_id)
                return None if outcome is None else ended(begun, outcome)
            found = await self.find(job_id)
            return found if found is not None and is_final(found) else None

        return await wait_until_final(begun, waiter, limit_seconds, look)

    async def finish(self, job_id: str, outcome: Outcome) -> Outcome:
        """End a job with this outcome unless it has ended; return the outcome that it has.

        The result is `outcome` itself if this call ended the job. If the job had ended before,
        its orchestration is told once more, since whoever ended it may have died before that.

        Raises:
            Unavailable: the outcome may not be recorded; repeat the call.
            UnknownInstance: there is no such job.
            FinalInstance: the orchestration had ended without a recorded outcome.
        """
        recorded = await self._outcomes.record(job_id, outcome)
        self._services.waiters.notify(job_id, recorded)
        told = self._durable.raise_event(job_id, EVENT_REPLY, outcome_to_json(recorded))
        if recorded is outcome:
            await _or_later(job_id, told)
        else:
            with contextlib.suppress(UnknownInstance, FinalInstance):
                await _or_later(job_id, told)
        return recorded

    async def _overdue(self, job_id: str, begun: Record, instance: Instance) -> Outcome | None:
        """Return the outcome of a job whose orchestration ended or is late; None for any other."""
        match instance.runtime_status:
            case RuntimeStatus.TERMINATED | RuntimeStatus.CANCELED:
                return Outcome.cancelled(instance.updated_at)
            case RuntimeStatus.FAILED | RuntimeStatus.COMPLETED:
                return Outcome.failed(LOST, instance.updated_at)
        now = self._services.clock()
        if now < datetime.fromisoformat(begun["deadline"]) + EXPIRY_GRACE:
            return None
        return await outcome_at_deadline(self._services, job_id, begun["model"], now)


async def outcome_at_deadline(
    services: Services, job_id: str, model: str, now: datetime
) -> Outcome:
    """Return how a job ends at its deadline: expired, or cancelled if its worker was to stop.

    Raises Unavailable.
    """
    started_at = await stopping_since(services, job_id, model)
    return Outcome.expired(now) if started_at is None else Outcome.cancelled(now, started_at)


async def _or_later(job_id: str, told: Awaitable[None]) -> None:
    """Tell the orchestration; if Durable does not answer, leave that to its own checks."""
    try:
        await told
    except Unavailable as error:
        _log.warning("job %s: its orchestration learns its outcome later: %s", job_id, error)
