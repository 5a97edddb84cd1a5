"""How each kind of end settles its message, and what is left for the next delivery."""

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from contract.catalogue import Catalogue
from contract.guard import AddressGuard
from contract.messages import InlineBytes, InlineJson, JobRequest, ReplyTo, ReplyUrl
from worker.errors import (
    DeviceLost,
    HandedBack,
    InferenceFailed,
    NotFinished,
    PayloadsAway,
    ReplyForbidden,
    Settlement,
    WorkerError,
    WorkerFault,
)
from worker.jobs.ending import Endings
from worker.jobs.ledger import Ledger
from worker.messages.job import Job
from worker.messages.lease import Leases
from worker.messages.receiver import Ending
from worker.messages.servicebus import Delivery
from worker.observed.metrics import Metrics
from worker.observed.tracing import JobSpan
from worker.outcomes.kept import KeptReplies
from worker.outcomes.outlets import Outlets, ReplyQueues, Webhooks
from worker.outcomes.replies import Replies
from worker.remote.outbound import Outbound
from worker.settings import Endpoint


@dataclass
class World:
    """A consumer that notes what its endings ask of it. Jobs want no reply unless they say so."""

    settled: list[Ending] = field(default_factory=list)
    losses: list[DeviceLost] = field(default_factory=list)
    now: float = 0.0
    has_settled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        outlets = Outlets(
            Replies(frozenset({"127.0.0.1:1"})),
            ReplyQueues(Endpoint(address="unused"), Catalogue.load()),
            Webhooks(Outbound(AddressGuard("")), ()),
        )
        self.kept = KeptReplies()
        self.leases = Leases(lambda: self.now)
        self.ledger = Ledger("noop", Metrics().of("noop"))
        self.endings = Endings("noop", self.ledger, self, outlets, self.kept)

    def settle(self, ending: Ending) -> None:
        self.settled.append(ending)
        self.has_settled.set()

    def has_run(self, job: Job) -> None:
        self.ledger.has_run(job)

    def lost_device(self, error: DeviceLost) -> None:
        self.losses.append(error)

    def job(self, delivery_count: int = 0, reply_to: ReplyTo | None = None) -> Job:
        now = datetime.now(UTC)
        message = cast(Any, None)
        delivery = Delivery(b"", delivery_count, now, None, {}, "job", message, "noop", 7)
        payload = InlineBytes("text/plain", b"")
        deadline = now + timedelta(seconds=60)
        request = JobRequest("job", "noop", payload, now, deadline, reply_to=reply_to)
        lease = self.leases.hold(delivery, lambda delivery, timeout_seconds: 10.0, 10.0, 60.0)
        job = Job(request, delivery, lease, JobSpan("-"))
        self.ledger.received(delivery)
        self.ledger.opened(job)
        return job

    @property
    def hows(self) -> list[Settlement]:
        return [ending.how for ending in self.settled]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("error", [PayloadsAway(""), WorkerFault(""), NotFinished("")])
def test_what_may_succeed_later_is_abandoned_after_a_while(
    world: World, error: WorkerError
) -> None:
    for delivery_count in (0, 1, 9):
        world.endings.end(world.job(delivery_count), error)
    assert world.hows == [Settlement.ABANDON] * 3
    delays = [ending.delay_seconds for ending in world.settled]
    assert 0.5 <= delays[0] <= 1.0 < delays[1] <= 4.0 < delays[2] <= 60.0


def test_nothing_else_waits(world: World) -> None:
    world.endings.end(world.job(), HandedBack(""))
    world.endings.end(world.job(), ReplyForbidden("why"))
    world.endings.refuse(world.job().delivery, WorkerFault(""))
    assert world.hows == [Settlement.RELEASE, Settlement.DEAD_LETTER, Settlement.ABANDON]
    assert {ending.delay_seconds for ending in world.settled} == {0.0}
    assert (world.settled[1].reason, world.settled[1].description) == ("reply-forbidden", "why")


def test_a_job_ends_once(world: World) -> None:
    # Its reply would be refused.
    job = world.job(reply_to=ReplyUrl("https://elsewhere.test/"))
    world.endings.end(job, NotFinished(""))
    world.endings.reply(job, InlineJson(1))
    world.endings.end(job, HandedBack(""))
    assert world.hows == [Settlement.ABANDON]


def test_who_leaves_hands_back_what_has_not_started_and_nothing_else(world: World) -> None:
    waiting, running, failing = (world.job() for _ in range(3))
    assert world.endings.may_start(running)
    world.endings.end(failing, InferenceFailed("to be told"))
    assert world.ledger.withdraw() == [waiting]
    assert not world.endings.may_start(waiting)
    assert world.ledger.withdraw() == []


def test_a_lost_lock_is_left_alone_and_its_result_kept(world: World) -> None:
    job = world.job()
    world.now += 100.0
    world.endings.attempt(job, lambda job: world.endings.reply(job, InlineJson(1)))
    assert world.hows == [Settlement.LEAVE]
    kept = world.kept.find(job.delivery)
    assert kept is not None
    assert not kept.is_delivered
    world.endings.reply_again(world.job(delivery_count=1), kept)
    assert world.hows == [Settlement.LEAVE, Settlement.COMPLETE]


def test_what_was_replied_is_only_settled(world: World) -> None:
    first = world.job()
    world.endings.reply(first, InlineJson(1))
    kept = world.kept.find(first.delivery)
    assert kept is not None
    assert kept.is_delivered
    # Its reply would be refused.
    again = world.job(1, ReplyUrl("https://elsewhere.test/"))
    world.endings.attempt(again, lambda job: world.endings.reply_again(job, kept))
    assert world.hows == [Settlement.COMPLETE] * 2
    unanswered = replace(kept, is_delivered=False)
    refused = world.job(2, ReplyUrl("https://elsewhere.test/"))
    world.endings.attempt(refused, lambda job: world.endings.reply_again(job, unanswered))
    assert world.hows[2] == Settlement.DEAD_LETTER


def test_a_lost_device_is_told_of_and_its_job_counts_it(world: World) -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    world.endings.fail(world.job(), error, InferenceFailed)
    assert world.hows == [Settlement.ABANDON]
    assert [type(loss) for loss in world.losses] == [DeviceLost]


def test_what_finds_no_memory_outside_the_batch_may_succeed_elsewhere(world: World) -> None:
    def raises(job: Job) -> None:
        raise MemoryError

    told = world.job()
    world.endings.attempt(told, raises, InferenceFailed)
    assert world.has_settled.wait(10)
    kept = world.kept.find(told.delivery)
    assert kept is not None
    assert kept.code == "out-of-memory"
    world.endings.attempt(world.job(), raises)
    assert world.hows[1] is Settlement.ABANDON, "in our own code it is not the input's fault"


def test_no_job_hangs_for_what_would_end_a_thread(world: World) -> None:
    def raises(job: Job) -> None:
        raise SystemExit

    world.endings.attempt(world.job(), raises)
    assert world.hows == [Settlement.ABANDON]
