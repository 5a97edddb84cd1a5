"""Replies to producers without a gateway, delivered as durably as a job's own webhook.

There is no job to ask for what is told, so it travels in the orchestration's input.
"""

import json
from dataclasses import asdict, dataclass, field

from contract.names import ORCHESTRATOR_WEBHOOK
from gateway.durable import Durable
from gateway.services import Services
from gateway.webhooks.attempt import attempt
from gateway.webhooks.orchestrator import input_text


@dataclass(frozen=True, slots=True)
class Told:
    """What a producer is told, where, and as which event."""

    job_id: str
    event: str
    url: str = field(repr=False)
    body: str = field(repr=False)


async def announce(told: Told, instance_id: str, durable: Durable) -> None:
    """Start the delivery, unless that has been done."""
    if await durable.status(instance_id) is None:
        text = input_text(told.job_id, told=asdict(told))
        await durable.start(instance_id, text, ORCHESTRATOR_WEBHOOK)


async def deliver(text: str, services: Services) -> str:
    """Try once to deliver what a producer is told; returns the outcome as JSON text."""
    told = Told(**json.loads(text))
    return await attempt(services, told.url, told.event, told.body.encode())
