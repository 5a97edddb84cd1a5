"""Let messages be dead-lettered, and redrive them by the admin routes."""

from datetime import UTC, datetime
from typing import Any

from azure.functions.servicebus import ServiceBusMessage

from contract.messages import encode_request
from gateway.brokers.servicebus import read_dead_letter
from tests.unit.gateway.conftest import RunningGateway

LETTERS = "/v1/admin/dead-letters"


async def give_up(
    gateway: RunningGateway,
    body: bytes,
    message_id: str,
    *,
    minute: int = 0,
    queue: str = "noop",
    reason: str = "MaxDeliveryCountExceeded",
    **properties: str,
) -> None:
    """Let the gateway receive a dead-lettered message, enqueued `minute` minutes after 12:00."""
    message = ServiceBusMessage(
        body=body,
        message_id=message_id,
        correlation_id=message_id,
        application_properties={
            "DeadLetterReason": reason,
            **{name.replace("_", "-"): value for name, value in properties.items()},
        },
        user_properties={},
        delivery_count=3,
        enqueued_time_utc=datetime(2026, 3, 1, 12, minute, tzinfo=UTC),
    )
    await gateway.services.dead_letters.run(read_dead_letter(message), queue, gateway.durable)


async def dead_job(gateway: RunningGateway, data: bytes = b"secret") -> str:
    job_id = await gateway.accept(data)
    await give_up(gateway, encode_request(gateway.queues.request()), job_id)
    assert (await gateway.job(job_id))["error"]["code"] == "dead-lettered"
    return job_id


async def page(gateway: RunningGateway, **query: Any) -> Any:
    return await gateway.get(LETTERS, **query)


async def redrive(gateway: RunningGateway, letter_id: str) -> Any:
    return await gateway.http.post(f"{LETTERS}/noop/{letter_id}/redrive")
