"""What webhooks do to the world. Each may happen twice: the event's id tells the receiver so."""

import json
from typing import Final

from contract.names import ORCHESTRATOR_WEBHOOK, webhook_instance
from contract.webhook import event_id
from gateway.durable import Durable
from gateway.jobs import record
from gateway.jobs.live import live
from gateway.jobs.resource import job_resource
from gateway.jobs.ticket import read
from gateway.jobs.waiting import final_instance
from gateway.services import Services
from gateway.strict_json import encode
from gateway.webhooks.attempt import attempt
from gateway.webhooks.log import State
from gateway.webhooks.orchestrator import failed_try, input_text

FINAL_WITHIN_SECONDS: Final = 5.0


async def announce(job_id: str, durable: Durable) -> None:
    """Start the delivery of a job that is about to end, unless that has been done."""
    instance_id = webhook_instance(job_id)
    # A second start would run a finished delivery once more.
    if await durable.status(instance_id) is None:
        await durable.start(instance_id, input_text(job_id), ORCHESTRATOR_WEBHOOK)


async def deliver(job_id: str, durable: Durable, services: Services) -> str:
    """Try once to deliver an ended job; returns the outcome as JSON text."""
    with services.waiters.listening(job_id) as bell:
        # The orchestration that announced this ends in a moment: what is told must be final.
        instance = await final_instance(durable, job_id, bell, FINAL_WITHIN_SECONDS)
    now = services.clock()
    found = record.of_instance(instance) if instance else None
    url = read(instance.input).webhook_url if instance and found else None
    if found is None or url is None:
        is_purged = instance is None and await durable.status(job_id) is None
        state = State.FAILED if is_purged else State.PENDING
        return json.dumps(failed_try(now, "unknown-job" if is_purged else "not-final", state=state))
    job = job_resource(job_id, await live(services, job_id, found))
    return await attempt(services, url, event_id(job_id), encode(job))
