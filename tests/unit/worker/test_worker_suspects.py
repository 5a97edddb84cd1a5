"""Test that suspects run alone, and that the lock journal says which jobs run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.unit.worker.received import locked_message, received_job
from worker.brokers.port import LockedMessage
from worker.pipeline.receive import ReceivedJob
from worker.pipeline.suspects import RunningJobs, Suspects
from worker.processes.history import NO_HISTORY, DeliveryHistory, LockState
from worker.processes.lock_journal import LockJournal, read_slots

SUSPECT = DeliveryHistory(running_count=1)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[LockJournal]:
    journal = LockJournal(tmp_path, "sb.example", "noop")
    yield journal
    journal.close()


def message(
    number: int, journal: LockJournal | None = None, history: DeliveryHistory = NO_HISTORY
) -> LockedMessage:
    token = number.to_bytes(16, "big")
    if journal is not None:
        journal.note_arrival(token)
        journal.note_read(token, history)
    return locked_message(delivery_count=1, token=token, history=history, journal=journal)


def states(journal: LockJournal) -> list[LockState]:
    return [slot.state for slot in read_slots(journal.path.read_bytes())]


def test_job_runs_alone_if_no_other_runs_meanwhile(journal: LockJournal) -> None:
    running = RunningJobs()
    first, second = message(1, journal), message(2, journal)
    running.begin_run(first)
    assert states(journal) == [LockState.RUNNING_ALONE, LockState.WAITING]
    running.begin_run(second)
    assert states(journal) == [LockState.RUNNING, LockState.RUNNING]
    assert not running.end_run(second)
    assert states(journal) == [LockState.RUNNING, LockState.WAITING]
    assert not running.end_run(first, LockState.RAN)
    with running.noting_run(second, LockState.RAN):
        assert states(journal) == [LockState.RAN, LockState.RUNNING_ALONE]
    assert states(journal) == [LockState.RAN, LockState.RAN]


def test_reading_a_message_interrupts_running_alone(journal: LockJournal) -> None:
    running = RunningJobs()
    first, second, third = (message(number, journal) for number in (1, 2, 3))
    with running.noting_read(first):
        assert states(journal)[0] is LockState.RUNNING_ALONE
    running.begin_run(first)
    with running.noting_read(second):
        with running.noting_read(third):
            assert states(journal) == [LockState.RUNNING] * 3
        assert states(journal) == [LockState.RUNNING, LockState.RUNNING, LockState.WAITING]
    assert states(journal) == [LockState.RUNNING_ALONE, LockState.WAITING, LockState.WAITING]
    assert running.end_run(first)


def test_batch_of_several_jobs_does_not_run_alone(journal: LockJournal) -> None:
    running = RunningJobs()
    running.begin_run(message(1, journal), message(2, journal))
    assert states(journal) == [LockState.RUNNING, LockState.RUNNING]


def test_no_job_runs_alone_while_a_model_loads(journal: LockJournal) -> None:
    running = RunningJobs()
    first, second = message(1, journal), message(2, journal)
    running.begin_run(first)
    with running.noting_load():
        assert states(journal)[0] is LockState.RUNNING
        running.end_run(first)
        running.begin_run(second)
        assert states(journal)[1] is LockState.RUNNING


class Started:
    """Suspects, and the jobs that they have started, in this order."""

    def __init__(self) -> None:
        self.suspects = Suspects()
        self.started: list[ReceivedJob] = []

    def start(self, history: DeliveryHistory = NO_HISTORY) -> ReceivedJob:
        job = received_job(message(1, history=history))
        self.suspects.start_in_turn(job, lambda: self.started.append(job))
        return job


@pytest.fixture
def jobs() -> Started:
    return Started()


def test_suspects_run_one_at_a_time_after_others(jobs: Started) -> None:
    usual, first, second = jobs.start(), jobs.start(SUSPECT), jobs.start(SUSPECT)
    assert jobs.started == [usual]
    assert jobs.suspects.exist
    jobs.suspects.end_turn(usual)
    assert jobs.started == [usual, first]
    jobs.suspects.end_turn(first)
    assert jobs.started == [usual, first, second]
    assert jobs.suspects.exist
    jobs.suspects.end_turn(second)
    assert not jobs.suspects.exist


def test_job_that_arrives_beside_a_suspect_is_next(jobs: Started) -> None:
    first, second, usual = jobs.start(SUSPECT), jobs.start(SUSPECT), jobs.start()
    assert jobs.started == [first]
    jobs.suspects.end_turn(first)
    assert jobs.started == [first, usual]
    jobs.suspects.end_turn(usual)
    assert jobs.started == [first, usual, second]


def test_suspect_that_killed_nobody_alone_comes_first(jobs: Started) -> None:
    usual = jobs.start()
    killer = jobs.start(DeliveryHistory(failed_count=1, running_count=2))
    unlucky = jobs.start(SUSPECT)
    jobs.suspects.end_turn(usual)
    jobs.suspects.end_turn(unlucky)
    assert jobs.started == [usual, unlucky, killer]


def test_job_that_ends_first_is_not_started(jobs: Started) -> None:
    running, waiting, usual = jobs.start(SUSPECT), jobs.start(SUSPECT), jobs.start()
    for job in (waiting, usual, running):
        jobs.suspects.end_turn(job)
    assert jobs.started == [running]
    assert not jobs.suspects.exist


def test_all_jobs_start_while_one_waits_for_children(jobs: Started) -> None:
    parent, waiting, usual = jobs.start(SUSPECT), jobs.start(SUSPECT), jobs.start()
    with jobs.suspects.suspended():
        assert not jobs.suspects.exist, "the child job must be received"
        child = jobs.start(SUSPECT)
        assert jobs.started == [parent, usual, waiting, child]
        jobs.suspects.end_turn(child)
    jobs.suspects.end_turn(parent)
    later = jobs.start(SUSPECT)
    assert later not in jobs.started
    jobs.suspects.end_turn(waiting)
    jobs.suspects.end_turn(usual)
    assert jobs.started[-1] is later


def test_suspect_starts_when_no_message_can_arrive(jobs: Started) -> None:
    queues = [True, True]
    for number in range(len(queues)):
        jobs.suspects.add_queue(partial(queues.__getitem__, number))
    started = threading.Event()
    suspect = received_job(message(1, history=SUSPECT))
    jobs.suspects.start_in_turn(suspect, started.set)
    queues[0] = False
    usual = jobs.start()
    assert jobs.started == [usual], "a job that still arrives starts before the suspect"
    assert jobs.suspects.exist
    queues[1] = False
    assert not started.is_set()
    jobs.suspects.end_turn(usual)
    assert started.wait(10)


def test_suspect_that_ends_first_is_not_awaited(jobs: Started) -> None:
    jobs.suspects.add_queue(lambda: True)
    jobs.suspects.end_turn(jobs.start(SUSPECT))
    assert not jobs.suspects.exist
    assert not jobs.started


def test_job_that_waits_for_children_does_not_run(journal: LockJournal) -> None:
    running = RunningJobs()
    parent, child = message(1, journal), message(2, journal)
    running.begin_run(parent)
    with running.noting_pause([parent]):
        running.begin_run(child)
        assert states(journal) == [LockState.RAN, LockState.RUNNING_ALONE]
        running.end_run(child)
    assert states(journal)[0] is LockState.RUNNING_ALONE


def test_death_may_be_allowed() -> None:
    suspects, started = Suspects(), list[int]()
    for number, deaths in enumerate((1, 1, 2)):
        job = received_job(message(number, history=DeliveryHistory(running_count=deaths)))
        suspects.start_in_turn(job, partial(started.append, number), allowed_deaths=1)
    assert started == [0, 1]
    assert suspects.exist


def test_message_that_comes_again_waits_for_its_earlier_delivery() -> None:
    suspects, started = Suspects(), list[str]()

    def start(name: str, number: int, delivery_count: int = 1, queue: str = "noop") -> ReceivedJob:
        delivery = locked_message(
            delivery_count=delivery_count, sequence_number=number, queue=queue
        )
        job = received_job(delivery)
        suspects.start_in_turn(job, partial(started.append, name))
        return job

    first = start("first", 7, delivery_count=0)
    second, third, ended = start("second", 7), start("third", 7), start("ended", 7)
    start("other number", 8)
    start("other queue", 7, queue="noop-low")
    start("unknown number", 0)
    start("unknown number", 0)
    usual = ["first", "other number", "other queue", "unknown number", "unknown number"]
    assert started == usual
    suspects.end_turn(ended)
    suspects.end_turn(first)
    assert started == [*usual, "second"]
    suspects.end_turn(second)
    assert started == [*usual, "second", "third"]
    suspects.end_turn(third)
    assert started == [*usual, "second", "third"]
