"""From a checked submit to a job that runs, and on to its end: what /v1 and /v2 share."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from uuid_utils import uuid7

from contract import media
from contract.catalogue import Model
from contract.claimcheck import fits_inline
from contract.messages import InlineBytes, InlineJson, InputPayload, JobRequest
from contract.names import input_blob
from gateway.api.queueing import refuse_if_saturated
from gateway.api.submitting.addresses import check_addresses
from gateway.api.submitting.intake import Intake
from gateway.api.submitting.uploaded import uploaded
from gateway.durable import Durable
from gateway.jobs import record, ticket
from gateway.jobs.jobs import Jobs
from gateway.jobs.record import Record
from gateway.jobs.ticket import Ticket
from gateway.services import Services
from gateway.strict_json import parse


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a job comes from: whose it is, and the trace that it belongs to."""

    tenant: str
    trace: str


async def issue(
    services: Services, model: Model, intake: Intake, origin: Origin, job_id: str | None = None
) -> Ticket:
    """Store what is large, and write down the job. Dying here leaves a blob that nobody names."""
    refuse_if_saturated(services, model, intake.deadline_seconds, intake.priority)
    await check_addresses(services.settings, intake)
    job_id = job_id or str(uuid7())
    created_at = services.clock()
    request = JobRequest(
        job_id=job_id,
        model=model.name,
        input=await _payload(services, model, intake, origin.tenant, job_id),
        created_at=created_at,
        deadline=created_at + timedelta(seconds=intake.deadline_seconds),
        parameters=intake.parameters,
    )
    return ticket.write(request, origin.trace, origin.tenant, intake.webhook_url, intake.priority)


async def _payload(
    services: Services, model: Model, intake: Intake, tenant: str, job_id: str
) -> InputPayload:
    if intake.url is not None:
        return intake.url
    if intake.upload is not None:
        return await uploaded(services, tenant, model, intake.upload, intake.media_type or None)
    if not fits_inline(len(intake.data), services.settings.inline_limit_bytes):
        return await services.payloads.put(input_blob(job_id), intake.data, intake.media_type)
    if intake.media_type == media.JSON:
        return InlineJson(parse(intake.data))
    return InlineBytes(intake.media_type, intake.data)


async def start_and_wait(
    services: Services, durable: Durable, issued: Ticket, wait_seconds: float
) -> Record | None:
    """Start the job; return its final record, or None if the wait is over before it has ended."""
    with services.waiters.waiting(issued.job_id) as waiter:
        await durable.start(issued.job_id, issued.text)
        created_at = datetime.fromisoformat(issued.created_at)
        services.backlog.accepted(issued.model, created_at, issued.priority)
        # From here on there is a job, and whatever happens, the answer says so.
        jobs = Jobs(durable, services)
        return await jobs.wait(issued.job_id, record.begun(issued), waiter, wait_seconds)
