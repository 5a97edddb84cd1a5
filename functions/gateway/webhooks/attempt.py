"""One try to deliver an event: signed now, posted once, and what became of it."""

import json
from typing import Final

from contract.webhook import signed_headers
from gateway.errors import WebhookUndelivered
from gateway.services import Services
from gateway.webhooks.log import State
from gateway.webhooks.orchestrator import failed_try

_GONE: Final = 410


async def attempt(services: Services, url: str, event: str, body: bytes) -> str:
    """Post the event's body; returns the outcome as JSON text."""
    now = services.clock()
    headers = signed_headers(services.settings.webhook_secrets, event, now, body)
    try:
        answer = await services.webhooks.post(url, headers, body)
    except WebhookUndelivered as error:
        return json.dumps(failed_try(now, error.reason))
    state = _state(answer.status)
    pause = answer.retry_after_seconds
    return json.dumps(
        failed_try(now, None, status=answer.status, state=state, retry_after_seconds=pause)
    )


def _state(status: int) -> State:
    if 200 <= status < 300:
        return State.DELIVERED
    return State.STOPPED if status == _GONE else State.PENDING
