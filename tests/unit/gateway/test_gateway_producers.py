"""Test how dead letters of producers are reported to the producers' reply queues."""

from datetime import timedelta

import pytest

from contract.brokers import BrokerMessage
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
from tests.unit.gateway import dead_letters
from tests.unit.gateway.conftest import RunningGateway


async def give_up(
    gateway: RunningGateway, reply_to: ReplyTo | None, reason: str = "MaxDeliveryCountExceeded"
) -> None:
    """Dead-letter a producer's message, whose message id differs from its job id."""
    now = gateway.clock()
    source, deadline = InlineJson(1), now + timedelta(seconds=60)
    request = JobRequest("order-7", "noop", source, now, deadline, reply_to=reply_to)
    await dead_letters.give_up(gateway, encode_request(request), "m-1", reason=reason)


def error_of(message: BrokerMessage) -> JobError:
    reply = decode_reply(message.body)
    assert reply.job_id == "order-7"
    assert isinstance(reply.outcome, JobError)
    return reply.outcome


async def test_dead_letter_is_reported_to_the_reply_queue(gateway: RunningGateway) -> None:
    await give_up(gateway, ReplyQueue("answers"))
    ((queue, message),) = gateway.queues.sent
    assert (queue, message.correlation_id) == ("answers", "order-7")
    assert message.message_id != "order-7", (
        "a queue with duplicate detection must accept a later result"
    )
    assert error_of(message).code == "dead-lettered"


async def test_report_contains_the_reason(gateway: RunningGateway) -> None:
    await give_up(gateway, ReplyQueue("answers"), reason="unknown-model")
    assert "unknown-model" in error_of(gateway.queues.sent[0][1]).message


async def test_expired_message_is_reported_and_not_stored(gateway: RunningGateway) -> None:
    await give_up(gateway, ReplyQueue("answers"), reason="TTLExpiredException")
    error = error_of(gateway.queues.sent[0][1])
    assert (error.code, error.retryable) == ("expired", True)
    assert not gateway.payloads.blobs


@pytest.mark.parametrize("queue", ["noop", "NOOP-low", "a/$DeadLetterQueue", "x" * 261, "missing"])
async def test_unusable_reply_queue_gets_no_report(gateway: RunningGateway, queue: str) -> None:
    gateway.queues.missing.add("missing")
    await give_up(gateway, ReplyQueue(queue))
    assert not gateway.queues.sent
    assert "dead-letters/noop/m-1" in gateway.payloads.blobs


async def test_trigger_fails_while_service_bus_is_down(gateway: RunningGateway) -> None:
    gateway.queues.is_down = True
    with pytest.raises(Unavailable):
        await give_up(gateway, ReplyQueue("answers"))


async def test_no_reply_address_means_no_report(gateway: RunningGateway) -> None:
    await give_up(gateway, None)
    assert not gateway.queues.sent
    assert not gateway.durable.runs
