"""Test that a lock expires at the right time although the worker's and broker's clocks differ."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from contract.catalogue import Catalogue
from contract.messages import InlineBytes, JobRequest, encode_request
from worker.errors import LockLost
from worker.pipeline.receive import ReceivedJob, ReceiveStep
from worker.replies import GatewayClient, QueueReplies, ReplySenders
from worker.servicebus.link import LockedMessage
from worker.servicebus.locks import LockRenewer
from worker.settings import AzureEndpoint

MODEL = replace(Catalogue.load()["noop"], lock_seconds=10)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def opened(locked_seconds: float) -> ReceivedJob:
    """Return a received job whose message lock expires in `locked_seconds` by the broker's clock.

    The worker's clock stands still at 100 s.
    """
    senders = ReplySenders(
        GatewayClient(frozenset()),
        QueueReplies(AzureEndpoint(address="unused"), Catalogue.load()),
    )
    deadline = NOW + timedelta(seconds=60)
    request = JobRequest("job", MODEL.name, InlineBytes("text/plain", b""), NOW, deadline)
    locked_until = NOW + timedelta(seconds=locked_seconds)
    delivery = LockedMessage(
        encode_request(request), 0, NOW, locked_until, {}, "job", cast(Any, None)
    )
    step = ReceiveStep(MODEL, senders, LockRenewer(lambda: 100.0))
    return step.open(delivery, lambda delivery, timeout_seconds: 10.0, NOW)


def test_a_lock_expires_at_the_expiry_time_in_the_message() -> None:
    assert opened(7.0).lock.expires_at == 107.0


def test_a_broker_clock_ahead_of_the_worker_clock_does_not_extend_a_lock() -> None:
    lock = opened(70.0).lock
    assert lock.expires_at == 110.0
    assert lock.due_at < 105.0, "the lock is renewed in time"


def test_reading_a_message_whose_lock_has_already_expired_raises_lock_lost() -> None:
    with pytest.raises(LockLost):
        opened(-0.1)
