"""Test how dead letters of producers are reported to the producers' reply queues."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.functions.servicebus import ServiceBusMessage

from contract.messages import (
    InlineJson,
    JobError,
    JobRequest,
    ReplyQueue,
    ReplyTo,
    decode_reply,
    encode_request,
)
from gateway.errors import Unavailable
from tests.unit.gateway.conftest import RunningGateway, open_gateway

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with open_gateway() as opened:
        yield opened


async def give_up(
    gateway: RunningGateway,
    reply_to: ReplyTo | None,
    *,
    minute: int = 0,
    reason: str = "MaxDeliveryCountExceeded",
) -> None:
    """Dead-letter a producer's message, whose message id differs from its job id.

    `reply_to` is the producer's reply queue. The message was enqueued `minute` minutes after 12:00.
    `reason` is the reason for the dead-lettering.
    """
    now = gateway.clock()
    source, deadline = InlineJson(1), now + timedelta(seconds=60)
    request = JobRequest("order-7", "noop", source, now, deadline, reply_to=reply_to)
    message = ServiceBusMessage(
        body=encode_request(request),
        message_id="m-1",
        correlation_id=None,
        application_properties={"DeadLetterReason": reason},
        user_properties={},
        delivery_count=3,
        enqueued_time_utc=datetime(2026, 3, 1, 12, minute, tzinfo=UTC),
    )
    await gateway.services.dead_letters.run(message, "noop", gateway.durable)


def error_of(body: bytes) -> JobError:
    reply = decode_reply(body)
    assert reply.job_id == "order-7"
    assert isinstance(reply.outcome, JobError)
    return reply.outcome


async def test_a_dead_letter_of_a_producer_is_reported_to_the_reply_queue_of_the_producer(
    gateway: RunningGateway,
) -> None:
    await give_up(gateway, ReplyQueue("answers"))
    ((queue, message),) = gateway.queues.sent
    assert (queue, message.correlation_id) == ("answers", "order-7")
    assert message.message_id != "order-7", (
        "a queue with duplicate detection must accept a later result"
    )
    body: Any = message.body
    assert error_of(b"".join(body)).code == "dead-lettered"


async def test_the_dead_letter_report_to_a_producer_contains_the_dead_letter_reason(
    gateway: RunningGateway,
) -> None:
    await give_up(gateway, ReplyQueue("answers"), reason="unknown-model")
    body: Any = gateway.queues.sent[0][1].body
    assert "unknown-model" in error_of(b"".join(body)).message


async def test_an_expired_message_of_a_producer_is_reported_to_the_reply_queue_and_not_stored(
    gateway: RunningGateway,
) -> None:
    await give_up(gateway, ReplyQueue("answers"), reason="TTLExpiredException")
    body: Any = gateway.queues.sent[0][1].body
    error = error_of(b"".join(body))
    assert (error.code, error.retryable) == ("expired", True)
    assert not gateway.payloads.blobs


@pytest.mark.parametrize("queue", ["noop", "NOOP-low", "a/$DeadLetterQueue", "x" * 261, "missing"])
async def test_a_dead_letter_with_an_unusable_reply_queue_is_stored_but_not_reported(
    gateway: RunningGateway, queue: str
) -> None:
    gateway.queues.missing.add("missing")
    await give_up(gateway, ReplyQueue(queue))
    assert not gateway.queues.sent
    assert "dead-letters/noop/m-1" in gateway.payloads.blobs


async def test_the_dead_letter_trigger_fails_while_service_bus_is_unavailable(
    gateway: RunningGateway,
) -> None:
    gateway.queues.is_down = True
    with pytest.raises(Unavailable):
        await give_up(gateway, ReplyQueue("answers"))


async def test_a_dead_letter_without_a_reply_address_is_not_reported(
    gateway: RunningGateway,
) -> None:
    await give_up(gateway, None)
    assert not gateway.queues.sent
    assert not gateway.durable.runs
