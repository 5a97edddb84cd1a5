"""Recover orchestrations that did not follow the end of their job.

A provider may leave an orchestration running for ever, for example after two hosts ran one of its
episodes ("split brain"). Its job has ended all the same: callers read the recorded outcome. Two
things remain: the webhook, which the orchestration would have started, and the orchestration
itself, which would never be purged.
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
"""How long an orchestration has to follow: longer than its checks and any visibility timeout."""

MAX_JOBS: Final = 500
"""How many jobs are looked at in one run, the newest first."""

_RUNNING: Final = frozenset(status for status in RuntimeStatus if not status.is_final)

_log = logging.getLogger(__name__)


async def recover(durable: Durable, jobs: Jobs, now: datetime, retention: timedelta) -> int:
    """Start the webhooks of jobs that ended long ago, and end their orchestrations.

    Args:
        durable: The durable client of this invocation.
        jobs: The jobs.
        now: The present time.
        retention: How long before `now` the oldest job was created that is looked at.

    Returns how many orchestrations were ended. Raises Unavailable.
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
    _log.warning("job %s: its orchestration did not follow its outcome and is ended", job_id)
    try:
        await durable.terminate(job_id, "the job ended, and this orchestration did not follow")
    except UnknownInstance:
        return


def _is_late(record: Record, now: datetime) -> bool:
    return datetime.fromisoformat(record["finished_at"]) < now - FOLLOWS_WITHIN
