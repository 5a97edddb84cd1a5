"""Test how a worker counts its unsettled messages, and how many more messages it can receive."""

from dataclasses import replace

import pytest

from contract.catalogue import Catalogue
from tests.unit.worker.received import locked_message, received_job
from worker.brokers.receiver import SettleRequest
from worker.errors import Settlement
from worker.inference.model_checks import ModelKind
from worker.pipeline.receive import MAX_OFFLOADED_COUNT, Capacity, InFlight, ReceivedJob
from worker.telemetry.recording import ModelTelemetry

MODEL = replace(Catalogue.load().model("noop"), max_batch_size=2)


class HeldMessages:
    def __init__(self) -> None:
        self.is_admitted = True
        self.kind = ModelKind.BATCH
        self.in_flight = InFlight(ModelTelemetry(MODEL.name))
        self.capacity = Capacity(lambda: self.is_admitted, self.in_flight, MODEL, lambda: self.kind)

    def take(self, count: int, *, low: bool = False) -> list[ReceivedJob]:
        jobs = []
        for _ in range(count):
            queue = "noop-low" if low else "noop"
            delivery = locked_message(queue=queue)
            job = received_job(delivery)
            self.in_flight.add_delivery(delivery)
            self.in_flight.add_job(job)
            jobs.append(job)
        return jobs

    def end(self, job: ReceivedJob, delay_seconds: float = 0.0) -> SettleRequest:
        ending = SettleRequest(job.delivery, None, Settlement.ABANDON, delay_seconds=delay_seconds)
        self.in_flight.finish_run(job)
        assert self.in_flight.record_end(ending, "code", job)
        return ending

    @property
    def rooms(self) -> tuple[bool, bool]:
        return bool(self.capacity.normal_count()), bool(self.capacity.low_count())


@pytest.fixture
def held() -> HeldMessages:
    return HeldMessages()


def test_one_batch_runs_and_one_is_prepared(held: HeldMessages) -> None:
    jobs = held.take(3)
    assert held.rooms == (True, True)
    jobs += held.take(1)
    assert held.rooms == (False, False)
    held.in_flight.finish_run(jobs[0])
    assert held.rooms == (True, True)


def test_too_many_unsettled_messages_use_all_capacity(held: HeldMessages) -> None:
    for job in held.take(8):
        held.in_flight.finish_run(job)
    assert held.rooms == (False, False)


def test_low_priority_takes_none_from_normal(held: HeldMessages) -> None:
    held.take(4, low=True)
    assert held.rooms == (True, False)
    held.take(4)
    assert held.rooms == (False, False)


def test_unloaded_model_has_no_capacity(held: HeldMessages) -> None:
    held.is_admitted = False
    assert held.rooms == (False, False)


def test_too_many_delayed_settlements_use_all_capacity(held: HeldMessages) -> None:
    endings = [held.end(job, delay_seconds=4.0) for _ in range(16) for job in held.take(4)]
    assert held.in_flight.held_count == 64
    assert held.rooms == (False, False)
    held.in_flight.remove_delivery(endings[0].delivery, in_time=True)
    assert held.rooms == (True, True)


def test_first_decision_to_settle_is_final(held: HeldMessages) -> None:
    (job,) = held.take(1)
    assert held.in_flight.jobs_without_outcome() == [job]
    ending = held.end(job)
    assert held.in_flight.jobs_without_outcome() == []
    assert not held.in_flight.record_end(ending, "another", job)
    assert held.in_flight.held_count == 1
    held.in_flight.remove_delivery(ending.delivery, in_time=False)
    assert held.in_flight.held_count == 0


def test_offloaded_job_does_not_reduce_capacity(held: HeldMessages) -> None:
    jobs = held.take(4)
    assert held.rooms == (False, False)
    held.in_flight.offload_job(jobs[0])
    assert held.rooms == (True, True)
    held.in_flight.bring_back_job(jobs[0])
    assert held.rooms == (False, False)


def test_offloaded_jobs_are_limited(held: HeldMessages) -> None:
    jobs = held.take(MAX_OFFLOADED_COUNT)
    for job in jobs:
        held.in_flight.offload_job(job)
    assert held.rooms == (False, False)
    held.end(jobs[0])
    assert held.rooms == (True, True)


def test_job_that_ends_while_offloaded_does_not_run(held: HeldMessages) -> None:
    (job,) = held.take(1)
    held.in_flight.offload_job(job)
    held.end(job)
    held.in_flight.bring_back_job(job)
    assert not held.in_flight.of_queue("noop").to_run
    assert not held.in_flight.of_queue("noop").offloaded


@pytest.mark.parametrize(
    ("run_ms", "count"), [(3000, 1), (1000, 2), (400, 3), (1, 4)], ids=["3s", "1s", "400ms", "1ms"]
)
def test_jobs_of_a_slow_item_model_are_left_to_others(
    held: HeldMessages, run_ms: float, count: int
) -> None:
    held.kind = ModelKind.ITEM
    assert held.capacity.normal_count() == 1, "before the first item has run"
    held.capacity.note_item(run_ms / 1000)
    assert held.capacity.normal_count() == count
    held.capacity.note_item(100.0)
    assert held.capacity.normal_count() == 1
