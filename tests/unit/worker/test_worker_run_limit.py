"""Test how the calls of a model's code that last too long are found, and how their jobs end."""

from __future__ import annotations

import pytest

from contract.messages import ReplyUrl
from tests.unit.worker.recorded_jobs import RecordedJobs
from worker.errors import ReplyUndelivered, Settlement
from worker.pipeline.suspects import RunLimit
from worker.processes.history import DeliveryHistory
from worker.processes.shutdown import EXIT_RESTART


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_call_is_overdue_once(clock: Clock) -> None:
    jobs, limit = RecordedJobs(), RunLimit(300.0, clock)
    job = jobs.job()
    with limit.timing_run(job):
        clock.now = 300.0
        assert limit.take_overdue() == []
        clock.now = 300.1
        assert limit.take_overdue() == [(job,)]
        assert limit.take_overdue() == []
    with limit.timing_run(job):
        clock.now = 600.0
        assert limit.take_overdue() == []
    clock.now = 900.0
    assert limit.take_overdue() == []


def test_waiting_for_other_jobs_does_not_count(clock: Clock) -> None:
    jobs, limit = RecordedJobs(), RunLimit(300.0, clock)
    with limit.timing_run(jobs.job()):
        clock.now = 200.0
        with limit.pausing_run():
            clock.now = 2000.0
            assert limit.take_overdue() == []
        clock.now = 2100.0
        assert limit.take_overdue() == []
        clock.now = 2101.0
        assert len(limit.take_overdue()) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_overdue_jobs_end_and_the_process_restarts(clock: Clock, count: int) -> None:
    jobs, limit = RecordedJobs(), RunLimit(300.0, clock)
    jobs.consumer.infer.runs = limit
    found = [jobs.job() for _ in range(count)]
    with limit.timing_run(*found):
        clock.now = 301.0
        jobs.consumer.end_overdue()
    assert jobs.has_settled.wait(10)
    assert (jobs.shutdown.is_requested, jobs.shutdown.exit_code) == (True, EXIT_RESTART)
    assert "noop ran longer than max_run_seconds (300 s)" in jobs.shutdown.reason
    if count == 1:
        cached = jobs.cache.find_reply(found[0].delivery)
        assert cached is not None
        assert cached.code == "run-too-long"
        assert jobs.settlements == [Settlement.COMPLETE]
    else:
        assert jobs.settlements == [Settlement.ABANDON] * 2
        histories = {request.history for request in jobs.settled}
        assert histories == {DeliveryHistory(batch_overrun_count=1)}, "each runs alone next time"


def test_message_says_that_its_job_ran_too_long() -> None:
    jobs = RecordedJobs()
    job = jobs.job(reply_to=ReplyUrl("http://127.0.0.1:1/v1/jobs/job/reply?token=secret"))
    job.overrun_count = 1
    jobs.consumer.end_job(job, ReplyUndelivered("the gateway does not answer"))
    (request,) = jobs.settled
    assert request.settlement is Settlement.ABANDON
    assert request.history == DeliveryHistory(overrun_count=1)
