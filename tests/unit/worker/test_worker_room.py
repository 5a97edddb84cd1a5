"""Whether one more message may be taken, and who counts what has been."""

from dataclasses import replace
from typing import Any, cast

import pytest

from contract.catalogue import Catalogue
from worker.errors import Settlement
from worker.pipeline.receive import Capacity, InFlight, Job
from worker.servicebus.link import Delivery
from worker.servicebus.receiver import SettleRequest
from worker.telemetry.recording import JobSpan, ModelTelemetry

MODEL = replace(Catalogue.load().model("noop"), max_batch_size=2)


class World:
    def __init__(self) -> None:
        self.is_admitted = True
        self.in_flight = InFlight(ModelTelemetry(MODEL.name))
        self.capacity = Capacity(lambda: self.is_admitted, self.in_flight, MODEL)

    def take(self, count: int, *, low: bool = False) -> list[Job]:
        jobs = []
        for _ in range(count):
            queue = "noop-low" if low else "noop"
            delivery = Delivery(b"", 0, None, None, {}, "job", cast(Any, None), queue)
            job = Job(cast(Any, None), delivery, cast(Any, None), JobSpan("-"))
            self.in_flight.add(delivery)
            self.in_flight.open(job)
            jobs.append(job)
        return jobs

    def end(self, job: Job, delay_seconds: float = 0.0) -> SettleRequest:
        ending = SettleRequest(job.delivery, None, Settlement.ABANDON, delay_seconds=delay_seconds)
        self.in_flight.finish_run(job)
        assert self.in_flight.end(ending, "code", job)
        return ending

    @property
    def rooms(self) -> tuple[bool, bool]:
        return bool(self.capacity.normal_count()), bool(self.capacity.low_count())


@pytest.fixture
def world() -> World:
    return World()


def test_one_batch_runs_while_the_next_is_made_ready(world: World) -> None:
    jobs = world.take(3)
    assert world.rooms == (True, True)
    jobs += world.take(1)
    assert world.rooms == (False, False)
    world.in_flight.finish_run(jobs[0])
    assert world.rooms == (True, True)


def test_what_awaits_its_settlement_is_limited_too(world: World) -> None:
    for job in world.take(8):
        world.in_flight.finish_run(job)
    assert world.rooms == (False, False)


def test_low_priority_takes_no_room_from_the_rest(world: World) -> None:
    world.take(4, low=True)
    assert world.rooms == (True, False)
    world.take(4)
    assert world.rooms == (False, False)


def test_nothing_is_received_that_is_not_admitted(world: World) -> None:
    world.is_admitted = False
    assert world.rooms == (False, False)


def test_what_waits_to_be_given_back_takes_no_place_until_there_is_too_much(world: World) -> None:
    endings = [world.end(job, delay_seconds=4.0) for _ in range(16) for job in world.take(4)]
    assert world.in_flight.held_count == 64
    assert world.rooms == (False, False)
    world.in_flight.remove(endings[0].delivery, in_time=True)
    assert world.rooms == (True, True)


def test_a_message_ends_once(world: World) -> None:
    (job,) = world.take(1)
    assert world.in_flight.open_jobs() == [job]
    ending = world.end(job)
    assert world.in_flight.open_jobs() == []
    assert not world.in_flight.end(ending, "another", job)
    assert world.in_flight.held_count == 1
    world.in_flight.remove(ending.delivery, in_time=False)
    assert world.in_flight.held_count == 0
