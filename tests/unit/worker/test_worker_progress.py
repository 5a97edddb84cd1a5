"""Test progress reports of running jobs, and the cancellation of running jobs."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from contract.catalogue import Catalogue
from contract.messages import ReplyUrl
from tests.unit.worker.received import locked_message, received_job
from tests.unit.worker.recorded_jobs import RecordedBlobs
from worker.brokers.receiver import LockRenewer
from worker.errors import Cancelled, Expired, LockLost
from worker.inference.loaded_model import NullContext
from worker.inputs.payloads import BlobPayloads
from worker.pipeline.children import ChildServices, JobChildren
from worker.pipeline.progress import (
    FIRST_SECONDS,
    HEARTBEAT_SECONDS,
    PAUSE_SECONDS,
    JobContext,
    ProgressReporter,
)
from worker.pipeline.receive import ReceivedJob
from worker.replies import GatewayClient

REPLY_URL = "https://gateway.test/v1/jobs/job/reply?expires=1&token=t"


@dataclass
class ProgressGateway:
    """A gateway that records progress reports, and a worker's reporter that sends them.

    Only the test advances the clock `now`. `goes_on` is the gateway's answer to each report: True
    if the job may continue.
    """

    told: list[dict[str, Any]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    goes_on: bool = True
    has_defect: bool = False
    now: float = 0.0
    locks: LockRenewer = field(init=False)
    reporter: ProgressReporter = field(init=False)

    def __post_init__(self) -> None:
        self.locks = LockRenewer(lambda: self.now)
        services = ChildServices(
            GatewayClient(frozenset()), Catalogue({}), BlobPayloads(RecordedBlobs())
        )
        self.reporter = ProgressReporter(
            self.post,
            lambda url: JobChildren(services, url, nullcontext, lambda: False),
            lambda: self.now,
        )

    def post(self, url: str, body: bytes) -> bool:
        if self.has_defect:
            raise RuntimeError("a defect")
        self.urls.append(url)
        self.told.append(json.loads(body))
        return self.goes_on

    def job(self, reply_url: str | None = REPLY_URL, seconds_left: float = 60) -> ReceivedJob:
        return received_job(
            locked_message(delivery_count=1),
            self.locks,
            lock_seconds=10.0,
            deadline_seconds=seconds_left,
            reply_to=None if reply_url is None else ReplyUrl(reply_url),
        )

    def open_context(self, job: ReceivedJob) -> JobContext:
        return self.reporter.open_context(job.request, job.attempt, job.check_usable)

    def fractions(self) -> list[float | None]:
        return [report.get("fraction") for report in self.told]


@pytest.fixture
def gateway() -> ProgressGateway:
    return ProgressGateway()


def test_start_is_reported_at_once(gateway: ProgressGateway) -> None:
    gateway.open_context(gateway.job())
    assert gateway.urls == ["https://gateway.test/v1/jobs/job/progress?expires=1&token=t"]
    (report,) = gateway.told
    assert (report["attempt"], report["sequence"]) == (2, 0)
    assert datetime.fromisoformat(report["started_at"]).tzinfo is not None


def test_concurrent_job_does_not_wait_for_reports(gateway: ProgressGateway) -> None:
    job = gateway.job()
    context = gateway.reporter.open_context(job.request, job.attempt, job.check_usable, waits=False)
    assert gateway.reporter.send_due_reports() == pytest.approx(FIRST_SECONDS)
    assert gateway.told == []
    gateway.now += FIRST_SECONDS + 0.01
    gateway.reporter.send_due_reports()
    context.send_last_report()
    assert len(gateway.told) == 1
    context.progress(1.0)
    context.send_last_report()
    assert gateway.fractions() == [None, 1.0]


def test_only_the_latest_progress_is_reported(gateway: ProgressGateway) -> None:
    context = gateway.open_context(gateway.job())
    for fraction in (0.1, 0.2, 0.3):
        context.progress(fraction, "drawing")
        gateway.reporter.send_due_reports()
    assert len(gateway.told) == 1
    gateway.now += PAUSE_SECONDS
    gateway.reporter.send_due_reports()
    assert (gateway.told[-1]["fraction"], gateway.told[-1]["message"]) == (0.3, "drawing")
    assert [report["sequence"] for report in gateway.told] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [((1.7,), "from 0 to 1, found 1.7"), ((0.5, "x" * 501), "at most 500 characters, found 501")],
)
def test_invalid_progress_is_refused(
    gateway: ProgressGateway, arguments: tuple[Any, ...], problem: str
) -> None:
    for context in (gateway.open_context(gateway.job()), NullContext()):
        with pytest.raises(ValueError, match=problem):
            context.progress(*arguments)
        context.progress(1.0, "x" * 500)


def test_cancellation_is_noticed_without_progress(gateway: ProgressGateway) -> None:
    context = gateway.open_context(gateway.job())
    gateway.now += HEARTBEAT_SECONDS - 0.1
    assert gateway.reporter.send_due_reports() == pytest.approx(0.1)
    gateway.goes_on = False
    gateway.now += 0.1
    gateway.reporter.send_due_reports()
    assert len(gateway.told) == 2
    with pytest.raises(Cancelled):
        context.check()
    with pytest.raises(Cancelled):
        context.progress(0.5)


def test_earlier_cancellation_is_noticed_at_the_start(gateway: ProgressGateway) -> None:
    gateway.goes_on = False
    assert gateway.open_context(gateway.job()).is_cancelled


def test_last_progress_is_reported_before_the_result(gateway: ProgressGateway) -> None:
    context = gateway.open_context(gateway.job())
    context.progress(1.0)
    context.send_last_report()
    assert gateway.fractions() == [None, 1.0]
    gateway.goes_on = False
    with pytest.raises(Cancelled):
        context.send_last_report()


def test_stop_of_a_cancelled_job_is_reported(gateway: ProgressGateway) -> None:
    context = gateway.open_context(gateway.job())
    context.report_stopped()
    assert [report.get("stopped") for report in gateway.told] == [None, True]


def test_ended_job_is_not_reported(gateway: ProgressGateway) -> None:
    context = gateway.open_context(gateway.job())
    gateway.reporter.close_context(context)
    gateway.now += 100
    assert gateway.reporter.send_due_reports() is None
    assert len(gateway.told) == 1


def test_job_without_reply_url_is_not_reported(gateway: ProgressGateway) -> None:
    for url in (None, "https://elsewhere.test/answers"):
        context = gateway.open_context(gateway.job(reply_url=url))
        context.progress(0.5)
        context.send_last_report()
    assert gateway.told == []


def test_lost_lock_stops_the_job(gateway: ProgressGateway) -> None:
    job = gateway.job()
    context = gateway.open_context(job)
    gateway.now = 20.0
    gateway.locks.renew_due()
    assert job.lock.is_lost
    with pytest.raises(LockLost):
        context.progress(0.5)


def test_deadline_stops_the_job(gateway: ProgressGateway) -> None:
    context = gateway.open_context(gateway.job(seconds_left=0))
    with pytest.raises(Expired):
        context.check()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), 50])
def test_invalid_fraction_raises_a_value_error(gateway: ProgressGateway, fraction: float) -> None:
    context = gateway.open_context(gateway.job())
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        context.progress(fraction)


def test_failed_report_does_not_end_the_thread(gateway: ProgressGateway) -> None:
    context = gateway.open_context(gateway.job())
    gateway.has_defect = True
    context.progress(0.5)
    gateway.now += PAUSE_SECONDS
    assert gateway.reporter.send_due_reports() == HEARTBEAT_SECONDS
