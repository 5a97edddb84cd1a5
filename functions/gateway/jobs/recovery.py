"""End orchestrations that still run although their job has ended.

A storage provider can leave an orchestration running for ever, for example after two hosts have run
the same part of the orchestration ("split brain"). Callers read the recorded outcome, so they see
that the job has ended. But the webhook is not delivered, and the history is never deleted.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus
from gateway.errors import UnknownInstance
from gateway.jobs.lifecycle import Jobs
from gateway.jobs.listing import IdRange, id_at, list_newest
from gateway.jobs.model import Record, is_final, read_ticket
from gateway.webhooks.activities import start_delivery

FOLLOWS_WITHIN: Final = timedelta(minutes=10)
"""An orchestration counts as stuck if it still runs this long after its job has ended."""

MAX_JOBS: Final = 500
"""The largest number of jobs that one call of `recover` checks. The newest jobs are checked."""

_RUNNING: Final = frozenset(status for status in RuntimeStatus if not status.is_final)

_log = logging.getLogger(__name__)


async def recover(durable: Durable, jobs: Jobs, now: datetime, retention: timedelta) -> int:
    """Terminate stuck orchestrations, and deliver the webhooks that they have not delivered.

    An orchestration is stuck if it still runs ten minutes after its job has ended. Jobs that are
    older than `retention` are not checked.

    Returns the number of terminated orchestrations. Raises Unavailable if a service fails.
    """
    ids = IdRange(below=id_at(now - FOLLOWS_WITHIN), above=id_at(now - retention))
    page = await list_newest(durable, ids, _RUNNING, MAX_JOBS, lambda *pair: pair)
    ended = 0
    for job_id, instance in page.jobs:
        found = await jobs.record_of(job_id, instance)
        if found is None or not is_final(found) or not _is_late(found, now):
            continue
        await _end(durable, job_id, instance)
        ended += 1
    return ended


async def _end(durable: Durable, job_id: str, instance: InstanceSnapshot) -> None:
    if read_ticket(instance.input).webhook_url is not None:
        await start_delivery(job_id, durable)
    _log.warning(
        "job %s has ended, but its orchestration is stuck; terminating the orchestration", job_id
    )
    try:
        await durable.terminate(job_id, "the job has ended, but this orchestration is stuck")
    except UnknownInstance:
        return


def _is_late(record: Record, now: datetime) -> bool:
    return datetime.fromisoformat(record["finished_at"]) < now - FOLLOWS_WITHIN
