"""Recovery of orchestrations that did not follow the end of their job.

A provider may leave an orchestration running for ever, for example after two hosts ran one of its
episodes ("split brain"). Its job has ended all the same: callers read the recorded outcome. What
is left is the webhook, which the orchestration would have started, and the orchestration itself,
which would never be purged.
"""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from contract.fields import Json
from gateway.durable import Durable, Instance, RuntimeStatus
from gateway.errors import UnknownInstance
from gateway.jobs.jobs import Jobs
from gateway.jobs.listing import Span, id_at, newest
from gateway.jobs.record import is_final
from gateway.jobs.ticket import read
from gateway.services import Services
from gateway.webhooks.activities import announce

FOLLOWS_WITHIN: Final = timedelta(minutes=10)
"""How long an orchestration has to follow: longer than its checks and any visibility timeout."""

MOST: Final = 500
"""How many jobs are looked at in one run, the newest first."""

_RUNNING: Final = frozenset(status for status in RuntimeStatus if not status.is_final)

_log = logging.getLogger(__name__)


async def recover(durable: Durable, services: Services) -> int:
    """Start the webhooks of jobs that ended long ago, and end their orchestrations.

    Returns how many orchestrations were ended. Raises Unavailable.
    """
    now = services.clock()
    longest = max(model.max_deadline_seconds for model in services.catalogue.values())
    oldest = now - timedelta(hours=services.settings.retention_hours, seconds=longest)
    span = Span(below=id_at(now - FOLLOWS_WITHIN), above=id_at(oldest))
    page = await newest(durable, span, _RUNNING, MOST, lambda *pair: pair)
    jobs = Jobs(durable, services)
    ended = 0
    for job_id, instance in page.jobs:
        found = await jobs.record_of(job_id, instance)
        if found is None or not is_final(found) or not _is_late(found, now):
            continue
        await _end(durable, job_id, instance)
        ended += 1
    return ended


async def _end(durable: Durable, job_id: str, instance: Instance) -> None:
    if read(instance.input).webhook_url is not None:
        await announce(job_id, durable)
    _log.warning("job %s: its orchestration did not follow its outcome and is ended", job_id)
    try:
        await durable.terminate(job_id, "the job ended, and this orchestration did not follow")
    except UnknownInstance:
        return


def _is_late(found: Mapping[str, Json], now: datetime) -> bool:
    return datetime.fromisoformat(found["finished_at"]) < now - FOLLOWS_WITHIN
