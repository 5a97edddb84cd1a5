"""From a message to a job: what its lock is taken for, whatever the clocks say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from contract.catalogue import Catalogue
from contract.guard import AddressGuard
from contract.messages import InlineBytes, JobRequest, encode_request
from worker.errors import LockLost
from worker.jobs.opening import Opening
from worker.messages.job import Job
from worker.messages.lease import Leases
from worker.messages.servicebus import Delivery
from worker.outcomes.outlets import Outlets, ReplyQueues, Webhooks
from worker.outcomes.replies import Replies
from worker.remote.outbound import Outbound
from worker.settings import Endpoint

MODEL = replace(Catalogue.load()["noop"], lock_seconds=10)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def opened(locked_seconds: float) -> Job:
    """A job whose message is locked for so long by our clock, which stands still."""
    outlets = Outlets(
        Replies(frozenset()),
        ReplyQueues(Endpoint(address="unused"), Catalogue.load()),
        Webhooks(Outbound(AddressGuard("")), ()),
    )
    deadline = NOW + timedelta(seconds=60)
    request = JobRequest("job", MODEL.name, InlineBytes("text/plain", b""), NOW, deadline)
    locked_until = NOW + timedelta(seconds=locked_seconds)
    delivery = Delivery(encode_request(request), 0, NOW, locked_until, {}, "job", cast(Any, None))
    opening = Opening(MODEL, outlets, Leases(lambda: 100.0))
    return opening.open(delivery, lambda delivery, timeout_seconds: 10.0, NOW)


def test_a_lock_lasts_as_long_as_its_message_says() -> None:
    assert opened(7.0).lease.expires_at == 107.0


def test_a_broker_whose_clock_is_ahead_locks_for_no_longer_than_the_queue_does() -> None:
    lease = opened(70.0).lease
    assert lease.expires_at == 110.0
    assert lease.due_at < 105.0, "it is renewed in time"


def test_a_lock_that_ran_out_in_the_socket_is_nobodys() -> None:
    with pytest.raises(LockLost):
        opened(-0.1)
