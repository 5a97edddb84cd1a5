"""Test that jobs which wait for memory or a child process do not block each other."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.worker.pictures import MIB, blank_png
from tests.unit.worker.recorded_jobs import RecordedJobs
from worker.errors import NotWaitedFor, Settlement
from worker.inputs.decoder_process import DecoderProcesses
from worker.inputs.memory import InputMemory, MemoryBudget
from worker.inputs.opened import InputKind, OpenedInput, keep_waiting, open_input, open_together
from worker.pipeline.prepare import CancellationCheck, RetryPolicy
from worker.pipeline.receive import ReceivedJob
from worker.replies import GatewayClient

LARGE_BYTES = 200 * MIB
IMAGE = InputKind("image")


class Setup:
    """A prepare step with one child process, and with memory for one job."""

    def __init__(self) -> None:
        self.jobs = RecordedJobs()
        self.budget = MemoryBudget(LARGE_BYTES)
        self.processes = DecoderProcesses(process_count=1)
        self.is_wanted: Callable[[ReceivedJob], bool] = lambda _job: True
        # A model that returns what it gets.
        loaded = SimpleNamespace(
            preprocess=lambda decoded, *_: decoded, cost=lambda _item: 1.0, preprocesses=False
        )
        self.step = replace(
            self.jobs.consumer.prepare,
            manager=cast(Any, SimpleNamespace(loaded=loaded)),
            cancellation=ScriptedCheck(self),
            memory=InputMemory(self.budget),
            processes=self.processes,
        )
        self.jobs.consumer.prepare = self.step

    def picture(self, side: int) -> OpenedInput:
        opened = open_input(IMAGE, blank_png(side, side), "image/png", self.processes)
        return open_together(opened, {})


class ScriptedCheck(CancellationCheck):
    """Answers as the function `is_wanted` of a setup, without a gateway."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(GatewayClient(frozenset()), RetryPolicy(threading.Event()))
        self.setup = setup

    def is_wanted(self, job: ReceivedJob) -> bool:
        return self.setup.is_wanted(job)


@pytest.fixture
def setup() -> Iterator[Setup]:
    made = Setup()
    yield made
    made.processes.close()


def test_job_that_waits_for_memory_holds_no_child(setup: Setup) -> None:
    """Let one job hold all memory and wait for a child while another job waits for memory."""
    waits = threading.Event()

    def note_wait(_job: ReceivedJob) -> bool:
        waits.set()
        return True

    setup.is_wanted = note_wait
    held = setup.budget.reserve(LARGE_BYTES, keep_waiting)
    job = setup.jobs.job()
    thread = threading.Thread(target=setup.step.decode_input, args=(job, setup.picture(1500)))
    thread.start()
    assert waits.wait(20)
    two = open_together(setup.picture(1500), {"mask": setup.picture(1600)})
    assert two.decode(keep_waiting).named["mask"].first.size == (1600, 1600)
    held.release()
    thread.join(20)
    assert job.item.size == (1500, 1500)


def test_cancelled_job_stops_waiting_for_memory(setup: Setup) -> None:
    setup.budget.reserve(LARGE_BYTES, keep_waiting)
    setup.is_wanted = lambda _job: False
    with pytest.raises(NotWaitedFor):
        setup.step.decode_input(setup.jobs.job(), setup.picture(1500))


def test_cancelled_job_stops_waiting_for_a_child(setup: Setup) -> None:
    holds, ends = threading.Event(), threading.Event()

    def hold() -> None:
        holds.set()
        ends.wait(20)

    other = threading.Thread(target=setup.picture(6000).decode, args=(hold,))
    other.start()
    assert holds.wait(20)
    setup.is_wanted = lambda _job: False
    with pytest.raises(NotWaitedFor):
        setup.step.decode_input(setup.jobs.job(), setup.picture(1500))
    assert setup.budget.used_bytes == 0
    ends.set()
    other.join(20)


def test_job_cancelled_while_decoded_ends_its_child(setup: Setup) -> None:
    setup.budget = MemoryBudget(4 * LARGE_BYTES)
    setup.step = replace(setup.step, memory=InputMemory(setup.budget))
    job = setup.jobs.job()
    setup.is_wanted = lambda _job: job.memory is None
    with pytest.raises(NotWaitedFor):
        setup.step.decode_input(job, setup.picture(6000))
    assert setup.budget.used_bytes == 0
    assert setup.processes.child_pids == []


@pytest.mark.parametrize("reason", ["cancelled", "expired"])
def test_prepared_job_gives_its_memory_back(setup: Setup, reason: str) -> None:
    job = setup.jobs.job(deadline_seconds=0.0 if reason == "expired" else 60.0)
    job.item, job.memory = object(), setup.budget.reserve(LARGE_BYTES, keep_waiting)
    setup.is_wanted = lambda _job: reason == "expired"
    setup.jobs.consumer.end_unwanted()
    assert setup.budget.used_bytes == 0
    assert not setup.jobs.in_flight.start_job(job)
    assert setup.jobs.settlements == [Settlement.COMPLETE]


def test_wanted_job_keeps_its_memory(setup: Setup) -> None:
    job = setup.jobs.job()
    job.item, job.memory = object(), setup.budget.reserve(LARGE_BYTES, keep_waiting)
    setup.jobs.consumer.end_unwanted()
    assert setup.budget.used_bytes == LARGE_BYTES
    assert setup.jobs.in_flight.start_job(job)
