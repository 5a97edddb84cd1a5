"""The activities that deliver webhooks.

An activity may run more than once. All runs send the same event id, so the receiver can ignore
repeated events.
"""

import json
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from contract.names import ORCHESTRATOR_WEBHOOK, webhook_instance
from contract.webhook import event_id, signed_headers, tenant_secrets
from gateway.addresses import tenant_share
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import WebhookUndelivered
from gateway.jobs.lifecycle import Jobs
from gateway.jobs.model import add_text_result, is_final, job_resource, read_ticket
from gateway.jobs.progress import ProgressStore
from gateway.json_text import encode_json
from gateway.storage.payloads import PayloadStore
from gateway.webhooks.orchestrator import (
    NO_PLACE,
    DeliveryState,
    attempt_outcome,
    delivery_input,
    read_delivery_log,
)
from gateway.webhooks.sender import WebhookSender
from gateway.webhooks.shares import AttemptShares

FIRST_ATTEMPT_SECONDS: Final = 5.0
"""The limit of the first attempt, short because a silent receiver occupies a place."""

ATTEMPT_SECONDS: Final = 15.0
"""The limit of each later attempt."""

_GONE: Final = 410


async def start_delivery(job_id: str, durable: Durable) -> None:
    """Start the delivery of an ended job's webhook, unless this delivery was started before."""
    instance_id = webhook_instance(job_id)
    # A second start would repeat a delivery that has ended.
    if await durable.status(instance_id) is None:
        await durable.start(instance_id, delivery_input(job_id), ORCHESTRATOR_WEBHOOK)


@dataclass(frozen=True, slots=True)
class WebhookActivities:
    """Implements the activity `deliver_webhook`.

    The secrets that sign a tenant's webhooks are derived from `secrets`.
    """

    jobs: Jobs
    progress: ProgressStore
    payloads: PayloadStore
    sender: WebhookSender
    secrets: tuple[bytes, ...] = field(repr=False)
    clock: Clock
    shares: AttemptShares = field(default_factory=AttemptShares)

    async def deliver_job(self, job_id: str, durable: Durable) -> str:
        """Make one attempt to post an ended job to its webhook; return its outcome as JSON text.

        The attempt is not made if the tenant or the receiver has no free place.
        """
        instance = await durable.status(job_id)
        found = await self.jobs.record_of(job_id, instance) if instance else None
        now = self.clock()
        if instance is None or found is None:
            return json.dumps(attempt_outcome(now, "unknown-job", state=DeliveryState.FAILED))
        ticket = read_ticket(instance.input)
        url, tenant = ticket.webhook_url, ticket.tenant
        if url is None or not is_final(found):
            return json.dumps(attempt_outcome(now, "not-final"))
        receiver = urlsplit(url).netloc.lower()
        pause_seconds = self.shares.start(tenant, receiver, now.timestamp())
        if pause_seconds is not None:
            return json.dumps(attempt_outcome(now, NO_PLACE, retry_after_seconds=pause_seconds))
        try:
            found = await self.progress.add_to(job_id, found)
            job = job_resource(job_id, await add_text_result(self.payloads, found))
            log = read_delivery_log(await durable.status(webhook_instance(job_id)))
            return await self._post(
                url, tenant, event_id(job_id), encode_json(job), is_first=not log["attempts"]
            )
        finally:
            self.shares.end(tenant, receiver, (self.clock() - now).total_seconds())

    async def _post(self, url: str, tenant: str, event: str, body: bytes, *, is_first: bool) -> str:
        now = self.clock()
        headers = signed_headers(tenant_secrets(self.secrets, tenant), event, now, body)
        seconds = FIRST_ATTEMPT_SECONDS if is_first else ATTEMPT_SECONDS
        try:
            response = await self.sender.post(url, headers, body, tenant_share(tenant), seconds)
        except WebhookUndelivered as error:
            return json.dumps(attempt_outcome(now, error.reason))
        return json.dumps(
            attempt_outcome(
                now,
                None,
                status=response.status,
                state=_state_after(response.status),
                retry_after_seconds=response.retry_after_seconds,
            )
        )


def _state_after(status: int) -> DeliveryState:
    if 200 <= status < 300:
        return DeliveryState.DELIVERED
    return DeliveryState.STOPPED if status == _GONE else DeliveryState.PENDING
