"""What webhooks do to the world. Each may happen twice: the event's id tells the receiver so."""

import json

from contract.names import ORCHESTRATOR_WEBHOOK, webhook_instance
from contract.webhook import event_id
from gateway.durable import Durable
from gateway.jobs.jobs import Jobs
from gateway.jobs.live import live
from gateway.jobs.record import is_final
from gateway.jobs.resource import job_resource
from gateway.jobs.ticket import read
from gateway.services import Services
from gateway.strict_json import encode
from gateway.webhooks.attempt import attempt
from gateway.webhooks.log import State
from gateway.webhooks.orchestrator import failed_try, input_text


async def announce(job_id: str, durable: Durable) -> None:
    """Start the delivery of a job that is about to end, unless that has been done."""
    instance_id = webhook_instance(job_id)
    # A second start would run a finished delivery once more.
    if await durable.status(instance_id) is None:
        await durable.start(instance_id, input_text(job_id), ORCHESTRATOR_WEBHOOK)


async def deliver(job_id: str, durable: Durable, services: Services) -> str:
    """Try once to deliver an ended job; return the outcome of the try as JSON text."""
    instance = await durable.status(job_id)
    found = await Jobs(durable, services).record_of(job_id, instance) if instance else None
    now = services.clock()
    if instance is None or found is None:
        return json.dumps(failed_try(now, "unknown-job", state=State.FAILED))
    url = read(instance.input).webhook_url
    if url is None or not is_final(found):
        return json.dumps(failed_try(now, "not-final"))
    job = job_resource(job_id, await live(services, job_id, found))
    return await attempt(services, url, event_id(job_id), encode(job))
