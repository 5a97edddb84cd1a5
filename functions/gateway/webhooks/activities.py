"""The activities that deliver webhooks.

Durable Functions may run an activity more than once. All runs send the same event id, so the
receiver can ignore repeated events.
"""

import json
from dataclasses import dataclass, field
from typing import Final

from contract.names import ORCHESTRATOR_WEBHOOK, webhook_instance
from contract.webhook import event_id, signed_headers, tenant_secrets
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import WebhookUndelivered
from gateway.http.requests import encode_json
from gateway.jobs.lifecycle import Jobs
from gateway.jobs.model import is_final, job_resource, read_ticket
from gateway.jobs.progress import ProgressStore
from gateway.jobs.results import add_text_result
from gateway.storage.payloads import PayloadStore
from gateway.webhooks.orchestrator import DeliveryState, attempt_outcome, delivery_input
from gateway.webhooks.sender import WebhookSender, tenant_share

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

    Webhooks are signed. The secrets that sign a tenant's webhooks are derived from `secrets`.
    """

    jobs: Jobs
    progress: ProgressStore
    payloads: PayloadStore
    sender: WebhookSender
    secrets: tuple[bytes, ...] = field(repr=False)
    clock: Clock

    async def deliver_job(self, job_id: str, durable: Durable) -> str:
        """Make one attempt to post an ended job to its webhook.

        Returns a JSON object as text. It contains the time, the HTTP status or the error code of
        this attempt, the new state of the delivery, and the Retry-After of the receiver.
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
        found = await self.progress.add_to(job_id, found)
        job = job_resource(job_id, await add_text_result(self.payloads, found))
        secrets = tenant_secrets(self.secrets, tenant)
        return await self._post(
            url, event_id(job_id), encode_json(job), secrets, tenant_share(tenant)
        )

    async def _post(
        self, url: str, event: str, body: bytes, secrets: tuple[bytes, ...], share: str
    ) -> str:
        now = self.clock()
        headers = signed_headers(secrets, event, now, body)
        try:
            response = await self.sender.post(url, headers, body, share)
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
