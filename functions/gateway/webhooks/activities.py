"""The activities that deliver the webhooks of jobs and of batches.

An activity may run more than once. All runs send the same event id, so the receiver can ignore
repeated events.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from contract.names import ORCHESTRATOR_WEBHOOK, webhook_instance
from contract.webhook import event_id, signed_headers, tenant_secrets
from gateway.addresses import tenant_share
from gateway.batches.ids import is_batch_id
from gateway.batches.resource import batch_resource
from gateway.batches.store import BatchStore
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
class _Event:
    """What a webhook is about. It goes nowhere if `url` is None. `encode` returns its content."""

    id: str
    url: str | None
    tenant: str
    encode: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class WebhookActivities:
    """Implements the activity `deliver_webhook`.

    The secrets that sign a tenant's webhooks are derived from `secrets`.
    """

    jobs: Jobs
    batches: BatchStore
    progress: ProgressStore
    payloads: PayloadStore
    sender: WebhookSender
    secrets: tuple[bytes, ...] = field(repr=False)
    clock: Clock
    shares: AttemptShares = field(default_factory=AttemptShares)

    async def deliver(self, ended_id: str, durable: Durable) -> str:
        """Make one attempt to post an ended job or batch to its webhook; return its outcome.

        The outcome is JSON text. The attempt is not made if the tenant or the receiver has no free
        place.
        """
        if is_batch_id(ended_id):
            found = await self._find_batch(ended_id)
        else:
            found = await self._find_job(ended_id, durable)
        now = self.clock()
        if found is None:
            return json.dumps(attempt_outcome(now, "unknown-job", state=DeliveryState.FAILED))
        if found.url is None:
            return json.dumps(attempt_outcome(now, "not-final"))
        receiver = urlsplit(found.url).netloc.lower()
        pause_seconds = self.shares.start(found.tenant, receiver, now.timestamp())
        if pause_seconds is not None:
            return json.dumps(attempt_outcome(now, NO_PLACE, retry_after_seconds=pause_seconds))
        try:
            body = await found.encode()
            log = read_delivery_log(await durable.status(webhook_instance(ended_id)))
            return await self._post(found.url, found, body, is_first=not log["attempts"])
        finally:
            self.shares.end(found.tenant, receiver, (self.clock() - now).total_seconds())

    async def _find_job(self, job_id: str, durable: Durable) -> _Event | None:
        """Return the event of a job, without a URL before its end; None if there is no job."""
        instance = await durable.status(job_id)
        found = await self.jobs.record_of(job_id, instance) if instance else None
        if instance is None or found is None:
            return None
        ticket, record = read_ticket(instance.input), found

        async def encode() -> bytes:
            shown = await add_text_result(self.payloads, await self.progress.add_to(job_id, record))
            return encode_json(job_resource(job_id, shown))

        url = ticket.webhook_url if is_final(record) else None
        return _Event(event_id(job_id), url, ticket.tenant, encode)

    async def _find_batch(self, batch_id: str) -> _Event | None:
        """Return the event of a batch, without a URL before its end; None without the batch."""
        if (spec := await self.batches.spec(batch_id)) is None:
            return None
        state, _ = await self.batches.state(batch_id)

        async def encode() -> bytes:
            return encode_json(batch_resource(spec, state))

        url = spec.webhook_url if state.status.is_final else None
        return _Event(event_id(batch_id, "batch"), url, spec.tenant, encode)

    async def _post(self, url: str, event: _Event, body: bytes, *, is_first: bool) -> str:
        now = self.clock()
        secrets = tenant_secrets(self.secrets, event.tenant)
        headers = signed_headers(secrets, event.id, now, body)
        seconds = FIRST_ATTEMPT_SECONDS if is_first else ATTEMPT_SECONDS
        try:
            response = await self.sender.post(
                url, headers, body, tenant_share(event.tenant), seconds
            )
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
