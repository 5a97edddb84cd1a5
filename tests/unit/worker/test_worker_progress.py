"""How a running job reports, and hears that it is to stop."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from contract.messages import InlineBytes, JobRequest, ReplyUrl
from worker.errors import Cancelled, Expired, LockLost
from worker.pipeline.progress import HEARTBEAT_SECONDS, PAUSE_SECONDS, ProgressReporter
from worker.pipeline.receive import Job
from worker.servicebus.link import Delivery
from worker.servicebus.locks import LockRenewer
from worker.telemetry.recording import JobSpan

REPLY_URL = "https://gateway.test/v1/jobs/job/reply?expires=1&token=t"


@dataclass
class World:
    """A gateway that notes what it is told, and a clock that stands still."""

    told: list[dict[str, Any]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    goes_on: bool = True
    now: float = 0.0
    leases: LockRenewer = field(init=False)
    reporter: ProgressReporter = field(init=False)

    def __post_init__(self) -> None:
        self.leases = LockRenewer(lambda: self.now)
        self.reporter = ProgressReporter(self.post, lambda: self.now)

    def post(self, url: str, body: bytes) -> bool:
        self.urls.append(url)
        self.told.append(json.loads(body))
        return self.goes_on

    def job(self, reply_url: str | None = REPLY_URL, seconds_left: float = 60) -> Job:
        now = datetime.now(UTC)
        delivery = Delivery(b"", 1, now, None, {}, "job", cast(Any, None))
        payload = InlineBytes("text/plain", b"")
        deadline = now + timedelta(seconds=seconds_left)
        reply_to = None if reply_url is None else ReplyUrl(reply_url)
        request = JobRequest("job", "slow", payload, now, deadline, reply_to=reply_to)
        lease = self.leases.hold(delivery, lambda delivery, timeout_seconds: 1.0, 10.0, 60.0)
        return Job(request, delivery, lease, JobSpan("-"))

    def fractions(self) -> list[float | None]:
        return [report.get("fraction") for report in self.told]


@pytest.fixture
def world() -> World:
    return World()


def test_the_start_is_told_at_once(world: World) -> None:
    world.reporter.begin(world.job())
    assert world.urls == ["https://gateway.test/v1/jobs/job/progress?expires=1&token=t"]
    (report,) = world.told
    assert (report["attempt"], report["sequence"]) == (2, 0)
    assert datetime.fromisoformat(report["started_at"]).tzinfo is not None


def test_of_what_comes_fast_the_last_is_told(world: World) -> None:
    context = world.reporter.begin(world.job())
    for fraction in (0.1, 0.2, 0.3):
        context.progress(fraction, "drawing")
        world.reporter.turn()
    assert len(world.told) == 1
    world.now += PAUSE_SECONDS
    world.reporter.turn()
    assert (world.told[-1]["fraction"], world.told[-1]["message"]) == (0.3, "drawing")
    assert [report["sequence"] for report in world.told] == [0, 1]


def test_a_silent_model_is_told_of_so_that_it_hears(world: World) -> None:
    context = world.reporter.begin(world.job())
    world.now += HEARTBEAT_SECONDS - 0.1
    assert world.reporter.turn() == pytest.approx(0.1)
    world.goes_on = False
    world.now += 0.1
    world.reporter.turn()
    assert len(world.told) == 2
    with pytest.raises(Cancelled):
        context.check()
    with pytest.raises(Cancelled):
        context.progress(0.5)


def test_a_job_that_was_cancelled_before_it_began(world: World) -> None:
    world.goes_on = False
    assert world.reporter.begin(world.job()).is_cancelled


def test_the_last_question_before_the_result(world: World) -> None:
    context = world.reporter.begin(world.job())
    context.progress(1.0)
    context.finish()
    assert world.fractions() == [None, 1.0]
    world.goes_on = False
    with pytest.raises(Cancelled):
        context.finish()


def test_the_word_that_it_has_stopped(world: World) -> None:
    context = world.reporter.begin(world.job())
    context.report_stopped()
    assert [report.get("stopped") for report in world.told] == [None, True]


def test_what_has_ended_is_reported_no_more(world: World) -> None:
    context = world.reporter.begin(world.job())
    world.reporter.end(context)
    world.now += 100
    assert world.reporter.turn() is None
    assert len(world.told) == 1


def test_nobody_to_report_to(world: World) -> None:
    for url in (None, "https://elsewhere.test/answers"):
        context = world.reporter.begin(world.job(reply_url=url))
        context.progress(0.5)
        context.finish()
    assert world.told == []


def test_a_job_that_is_another_workers_stops(world: World) -> None:
    job = world.job()
    context = world.reporter.begin(job)
    world.now = 20.0
    world.leases.turn()
    assert job.lock.is_lost
    with pytest.raises(LockLost):
        context.progress(0.5)


def test_a_job_past_its_deadline_stops(world: World) -> None:
    context = world.reporter.begin(world.job(seconds_left=0))
    with pytest.raises(Expired):
        context.check()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), 50])
def test_a_share_that_is_none(world: World, fraction: float) -> None:
    context = world.reporter.begin(world.job())
    with pytest.raises(ValueError, match="expected 0 to 1"):
        context.progress(fraction)


def test_a_defect_in_reporting_does_not_end_it(world: World) -> None:
    context = world.reporter.begin(world.job())

    def fail(url: str, body: bytes) -> bool:
        raise RuntimeError("a defect")

    context._post = fail
    context.progress(0.5)
    world.now += PAUSE_SECONDS
    assert world.reporter.turn() == HEARTBEAT_SECONDS
