"""Test which messages may run, and when a lock expires if the clocks differ."""

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from contract.catalogue import Catalogue, ModelEntry
from contract.messages import InlineBytes, JobRequest, encode_request
from tests.unit.worker.received import locked_message
from worker.brokers.receiver import LockRenewer
from worker.errors import LockLost, TooManyFailures
from worker.pipeline.receive import ReceivedJob, ReceiveStep
from worker.processes.history import DeliveryHistory

MODEL = replace(Catalogue.load()["noop"], lock_seconds=10)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def receive_step(model: ModelEntry = MODEL) -> ReceiveStep:
    """Return the step of a worker whose clock stands still at 100 s."""
    return ReceiveStep(model, lambda reply_to: None, LockRenewer(lambda: 100.0))


def opened(locked_seconds: float) -> ReceivedJob:
    """Return a received job whose message lock expires in `locked_seconds` by the broker's clock.

    The worker's clock stands still at 100 s.
    """
    deadline = NOW + timedelta(seconds=60)
    request = JobRequest("job", MODEL.name, InlineBytes("text/plain", b""), NOW, deadline)
    locked_until = NOW + timedelta(seconds=locked_seconds)
    delivery = locked_message(body=encode_request(request), locked_until=locked_until)
    return receive_step().open_delivery(delivery, lambda delivery, timeout_seconds: 10.0, NOW)


def test_lock_expires_when_the_message_says() -> None:
    assert opened(7.0).lock.expires_at == 107.0


def test_fast_broker_clock_does_not_extend_the_lock() -> None:
    lock = opened(70.0).lock
    assert lock.expires_at == 110.0
    assert lock.due_at < 105.0, "the lock is renewed in time"


def test_expired_lock_is_lost() -> None:
    with pytest.raises(LockLost):
        opened(-0.1)


@pytest.mark.parametrize(
    ("limit", "delivery_count", "history", "may_run"),
    [
        pytest.param(
            3, 99, DeliveryHistory(waiting_count=50, running_count=9), True, id="innocent"
        ),
        pytest.param(3, 99, DeliveryHistory(failed_count=2, killed_count=2), True, id="once-more"),
        pytest.param(3, 3, DeliveryHistory(failed_count=3), False, id="failures"),
        pytest.param(3, 9, DeliveryHistory(killed_count=9), False, id="kills"),
        pytest.param(3, 5, DeliveryHistory(failed_count=2, killed_count=3), False, id="both"),
        pytest.param(1, 4, DeliveryHistory(waiting_count=4), True, id="never-ran"),
        pytest.param(1, 4, DeliveryHistory(waiting_count=3), False, id="may-have-run"),
    ],
)
def test_message_with_too_many_failures_is_refused(
    limit: int, delivery_count: int, history: DeliveryHistory, *, may_run: bool
) -> None:
    message = locked_message(delivery_count=delivery_count, history=history)
    step = receive_step(replace(MODEL, max_delivery_count=limit))
    with contextlib.nullcontext() if may_run else pytest.raises(TooManyFailures):
        step.check_failures(message)
