"""Received messages and jobs without a broker, for the tests of the worker's steps."""

from datetime import UTC, datetime, timedelta
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._pyamqp.message import Message

from contract.messages import InlineBytes, JobRequest, ReplyTo
from worker.brokers.port import LockedMessage
from worker.brokers.receiver import LockRenewer
from worker.pipeline.receive import ReceivedJob
from worker.processes.history import NO_HISTORY, DeliveryHistory
from worker.processes.lock_journal import LockJournal
from worker.telemetry.recording import JobSpan


def locked_message(
    message_id: str = "job",
    *,
    body: bytes = b"",
    delivery_count: int = 0,
    enqueued_at: datetime | None = None,
    locked_until: datetime | None = None,
    properties: dict[str, str] | None = None,
    queue: str = "noop",
    sequence_number: int = 0,
    token: bytes = b"",
    history: DeliveryHistory = NO_HISTORY,
    journal: LockJournal | None = None,
) -> LockedMessage:
    # The SDK makes a received message only for a receiver, which is used only to settle it.
    message = ServiceBusReceivedMessage(Message(data=[body]), receiver=object())
    return LockedMessage(
        body,
        delivery_count,
        enqueued_at,
        locked_until,
        properties or {},
        message_id,
        message,
        queue,
        sequence_number,
        token,
        history,
        journal,
    )


def received_job(
    delivery: LockedMessage,
    locks: LockRenewer | None = None,
    *,
    lock_seconds: float = 60.0,
    deadline_seconds: float = 60.0,
    reply_to: ReplyTo | None = None,
    item: Any = None,
) -> ReceivedJob:
    """Return a job of `delivery`, whose lock lasts `lock_seconds` of the clock of `locks`."""
    now = datetime.now(UTC)
    deadline = now + timedelta(seconds=deadline_seconds)
    payload = InlineBytes("text/plain", b"")
    request = JobRequest(delivery.message_id, "noop", payload, now, deadline, reply_to=reply_to)
    lock = (locks or LockRenewer()).start_renewal(
        delivery, lambda delivery, timeout_seconds: lock_seconds, lock_seconds, 1e9
    )
    return ReceivedJob(request, delivery, lock, JobSpan("-"), item=item)
